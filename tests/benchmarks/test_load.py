"""Records that are many or long take little memory."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.load import BOUND, Size, costs
from benchmarks.synthetic import ATTACKS, EPS, monitor, write_run
from robust_lowrank import records
from robust_lowrank.conditioning import History
from robust_lowrank.records import MONITOR
from robust_lowrank.reporting import comparison_report, condition_report

EXAMPLES = 300


@pytest.mark.slow
def test_a_comparison_of_drawn_runs_holds_few_bytes_a_verdict(tmp_path: Path) -> None:
    runs = [records.read_run(write_run(tmp_path / str(number), number, examples=EXAMPLES)) for number in range(3)]
    for run in runs:
        verdicts = run.results["curve"].verdicts
        assert len(verdicts) == EXAMPLES * len(ATTACKS) * len(EPS)
        assert verdicts.memory_usage(index=False).sum() / len(verdicts) < 55
        whole = records.read_frame(tmp_path / run.path.name / "results/curve/verdicts.parquet", records.VERDICTS)
        pd.testing.assert_frame_equal(verdicts.astype(whole.dtypes), whole)
    page = comparison_report(runs, tmp_path / "report", title="Drawn", command="")
    assert "Network 02" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_long_history_is_thinned_in_charts_and_whole_in_the_table(tmp_path: Path) -> None:
    run = records.read_run(write_run(tmp_path / "long", 0, layers=2, epochs=700))
    page = condition_report([run], tmp_path / "report", title="Long", command="")
    assert len(pd.read_csv(page.with_suffix(".csv"))) == 2 * 701
    assert page.read_text(encoding="utf-8").count('"epoch"') < 3 * 2 * 250
    assert "smallest and largest value of each stretch" in page.read_text(encoding="utf-8")


def test_a_history_of_a_monitor_keeps_what_it_was_given_in_few_bytes(tmp_path: Path) -> None:
    frame = monitor(np.random.default_rng(0), layers=10, steps=1000, values=4)
    history, path = History(), tmp_path / "monitor.parquet"
    for _, rows in frame.groupby("step"):
        history.write(rows.to_dict("records"))  # pyright: ignore[reportArgumentType]
    assert len(history) == len(frame) and history.last_step == 1000
    history.save(path)
    again = History()
    again.read(path)
    again.rewind(400)
    for found, expected in ((history.frame(), frame), (again.frame(), frame[frame["step"] <= 400])):
        assert tuple(found.columns) == MONITOR
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert again.last_step == 400


@pytest.mark.slow
def test_commands_keep_their_bound_at_a_tenth_of_the_size(tmp_path: Path) -> None:
    size = Size(runs=5, examples=2000, layers=20, epochs=300, steps=2000)
    program, *found = costs(tmp_path, size)
    assert [cost.command for cost in found if cost.peak - program.peak > BOUND // 2] == []
