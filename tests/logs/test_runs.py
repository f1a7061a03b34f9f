"""A run directory is a log by one of its own metrics."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.logs import Choice, compare, read_log
from robust_lowrank.records import Result, Run, RunFiles, write_frame, write_record
from tests.reporting.conftest import make_run, result  # noqa: F401

CLEAN = np.arange(20) < 16
HELD = {("fgsm", 0.1): np.arange(20) < 12, ("pgd-20", 0.1): np.arange(20) % 2 > 0, ("pgd-20", 0.2): np.arange(20) < 3}
Writing = Callable[..., Path]


@pytest.fixture
def written(make_run: Callable[..., Run]) -> Writing:  # noqa: F811 the fixture of reports
    """Return what writes a run directory with some results."""

    def write(place: Path, *results: Result) -> Path:
        run, files = make_run(place.name), RunFiles(place)
        write_record(files.record, run.record)
        write_frame(files.metrics, run.metrics)
        write_frame(files.spectra, run.spectra)
        for each in results:
            write_record(files.result(each.record.suite).record, each.record)
            write_frame(files.result(each.record.suite).verdicts, each.verdicts)
        return place

    return write


def right(place: Path, *metrics: str) -> list[bool]:
    log = read_log(place, Choice(metrics))
    assert log.kind == "run"
    return [log.right[str(example)] for example in range(20)]


def test_clean_examples_and_the_worst_case_over_the_attacks(tmp_path: Path, written: Writing) -> None:
    place = written(tmp_path / "r", result(CLEAN, HELD))
    assert right(place, "quick/clean") == CLEAN.tolist()
    assert right(place, "correct", "quick/0.1") == (CLEAN & HELD["fgsm", 0.1] & HELD["pgd-20", 0.1]).tolist()
    assert right(place, "quick/0.2") == (CLEAN & HELD["pgd-20", 0.2]).tolist()
    with pytest.raises(UserError, match=r"3 metrics, quick/clean, quick/0\.1, quick/0\.2"):
        read_log(place)
    other = written(tmp_path / "o", result(CLEAN, HELD, data="d2"))
    with pytest.raises(UserError, match="different tasks"):
        compare({name: read_log(path, Choice(["quick/0.2"])) for name, path in (("r", place), ("o", other))})


def test_several_results_and_none(tmp_path: Path, written: Writing) -> None:
    place = written(tmp_path / "r", result(CLEAN, HELD), result(~CLEAN, HELD, suite="other"))
    with pytest.raises(UserError, match=r"several results: choose one by --metric, such as other/clean, other/0\.1"):
        read_log(place)
    assert right(place, "other/clean") == (~CLEAN).tolist()
    with pytest.raises(UserError, match="has no results: attack it first"):
        read_log(written(tmp_path / "none"))
    with pytest.raises(UserError, match="is a directory, and no run directory"):
        read_log(tmp_path)


def test_unresolved_examples_are_no_verdicts(tmp_path: Path, written: Writing) -> None:
    place = written(tmp_path / "r", result(CLEAN, HELD, unresolved=np.arange(20) == 2))
    with pytest.raises(UserError, match="of the example '2' is 'unresolved', which is no score"):
        read_log(place, Choice(["quick/0.1"]))
    assert right(place, "quick/clean") == CLEAN.tolist()
