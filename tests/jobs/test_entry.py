"""The functions do what the commands do."""

from pathlib import Path

import pandas as pd
import pytest

import robust_lowrank as rlr
from robust_lowrank import records
from robust_lowrank.jobs import Event
from tests.experiments import TINY

TRAINING = {"epochs": 1, "batch_size": 64}
DATA = {"name": "digits", "train_examples": 256}


def test_train_takes_values_or_a_file_and_names_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.toml").write_text('[data]\nname = "digits"\ntrain_examples = 256\n[training]\nepochs = 1\nbatch_size = 64\n')
    events: list[Event] = []
    run = rlr.train({"data": DATA, "training": TRAINING}, progress=events.append)
    assert run.path == Path("runs/digits-cnn-dense-seed0")
    assert events[-1].done == events[-1].total
    assert rlr.train("one.toml").record.created == run.record.created  # it is the same run, which is there already


@pytest.mark.slow
def test_an_experiment_and_its_report(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY)
    outcome = rlr.bench(tmp_path / "tiny.toml", tmp_path / "out", workers=1)
    assert outcome.page.is_file()
    assert outcome.failures == {}
    assert [run.record.label for run in outcome.runs] == ["Dense", "CondLR τ=0.1"]
    page = rlr.report([run.path for run in outcome.runs], tmp_path / "again")
    again = page.parent / "results.csv"
    pd.testing.assert_frame_equal(pd.read_csv(again), pd.read_csv(outcome.page.parent / "results.csv"))
    first = records.RunFiles(outcome.runs[0].path).result("quick").record
    assert records.read_record(first, records.ResultRecord).accuracies[0].total == 10


def test_wrong_values_name_their_place(tmp_path: Path) -> None:
    with pytest.raises(rlr.UserError, match="config: unknown key 'epoch': did you mean 'epochs'"):
        rlr.train({"training": {"epoch": 1}}, tmp_path / "run")
    with pytest.raises(rlr.UserError, match="unknown executor 'cloud'"):
        (tmp_path / "tiny.toml").write_text(TINY)
        rlr.bench(tmp_path / "tiny.toml", tmp_path / "out", executor="cloud")
    assert not (tmp_path / "out").exists()
