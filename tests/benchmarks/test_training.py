"""The training benchmark chooses a learning rate by as few trainings as it takes."""

from pathlib import Path

import pytest

from benchmarks import training
from benchmarks.training import SEEDS, TASKS, Results, Trial

TASK, OPTIMIZER, METHOD = "digits MLP", "sgd", "geolora"
GRID = TASKS[TASK].grids[OPTIMIZER]


def chosen(results: Results, reached: dict[float, tuple[float, float, float]]) -> tuple[float, list[Trial]]:
    """Return the rate that is chosen where trainings reach so much, and the trainings that it took."""
    run: list[Trial] = []
    while (rate := results.best(TASK, OPTIMIZER, METHOD)) is None:
        _, wanted = results.choosing(TASK, OPTIMIZER, METHOD)
        assert wanted and not set(wanted) & set(run)
        for trial in wanted:
            results.add(trial, {**trial._asdict(), "choice": reached[trial.lr][trial.seed], "test": 0.0, "inference": 1})
        run += wanted
    return rate, run


@pytest.mark.parametrize(
    ("reached", "rate", "trainings"),
    [
        ({0.03: (80, 80, 80), 0.1: (95, 96, 95), 0.3: (90, 91, 92)}, 0.1, 5),
        ({0.03: (80, 80, 80), 0.1: (95, 96, 95), 0.3: (97, 10, 10)}, 0.1, 7),  # the first seed hides that others diverge
        ({0.03: (80, 99, 99), 0.1: (85, 70, 70), 0.3: (10, 10, 10)}, 0.03, 7),
    ],
)
def test_seeds_go_to_the_rate_that_is_ahead(tmp_path: Path, reached, rate: float, trainings: int) -> None:
    found, run = chosen(Results(tmp_path / "training.jsonl"), reached)
    assert found == rate
    assert len(run) == trainings < len(GRID) * len(SEEDS)


def test_a_stopped_benchmark_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = {0.03: (80, 80, 80), 0.1: (95, 96, 95), 0.3: (90, 91, 92)}
    _, run = chosen(Results(tmp_path / "training.jsonl"), reached)
    assert Results(tmp_path / "training.jsonl").best(TASK, OPTIMIZER, METHOD) == 0.1
    assert [each.seed for each in Results(tmp_path / "training.jsonl").reported(TASK, OPTIMIZER, METHOD, 0.1)] == list(SEEDS)
    monkeypatch.setattr(training, "sources", lambda: "others")
    assert Results(tmp_path / "training.jsonl").best(TASK, OPTIMIZER, METHOD) is None
    assert run
