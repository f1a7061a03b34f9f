"""Learning rates of an experiment are chosen on its validation images, and a choice that was stopped goes on."""

import math
from pathlib import Path

import pytest

from experiments import rates
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.experiment import Experiment


def experiment(**data: object) -> Experiment:
    return Experiment.model_validate(
        {
            "name": "trial",
            "seeds": [4, 5],
            "data": {"name": "digits", "validation_examples": 200} | data,
            "model": {"name": "mlp"},
            "training": {"epochs": 9, "batch_size": 64},
            "methods": [{"name": "dense"}, {"name": "condlr", "rank": 0.2, "lr": 0.05}],
            "attacks": [{"suite": "quick"}],
        }
    )


def test_the_best_rate_of_a_grid_is_named_and_what_diverges_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = rates.choose(experiment(), [0.001, 0.1, 1e12], tmp_path, epochs=1, examples=800)
    assert list(frame.index) == ["Dense", "CondLR τ=0.1"]
    assert list(frame["best"]) == [0.1, 0.1] and list(frame["in the file"]) == [0.1, 0.05]
    assert math.isnan(frame.loc["Dense", 1e12])
    assert 0.3 < frame.loc["Dense", 0.1] <= 1
    assert "Dense at 1e+12: " in capsys.readouterr().err
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*-lr0.1/run.json")}
    assert len(first) == 2
    again = rates.choose(experiment(), [0.1], tmp_path, epochs=1, examples=800)
    assert again.loc["Dense", 0.1] == frame.loc["Dense", 0.1]
    assert first == {path: path.stat().st_mtime_ns for path in first}


def test_a_method_that_diverges_at_every_rate_has_no_best_one(tmp_path: Path) -> None:
    frame = rates.choose(experiment(), [1e12, 1e13], tmp_path, epochs=1, examples=800)
    assert frame["best"].isna().all()


def test_without_validation_images_nothing_is_chosen(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sets no images aside"):
        rates.choose(experiment(validation_examples=0), [0.1], tmp_path, epochs=1, examples=None)
