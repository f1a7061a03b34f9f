"""A training whose numbers are no longer finite stops at a sound epoch, or goes back to one."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robust_lowrank import checkpoint, records
from robust_lowrank.errors import TrainingError
from robust_lowrank.training import Progress, TrainConfig, train
from robust_lowrank.training.loop import Loop
from robust_lowrank.training.networks import load_network

Small = Callable[..., TrainConfig]


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Have the inputs of a step be NaN while the learning rate is at least so large."""

    def poison(step: int, lr: float) -> None:
        real = Loop._inputs

        def inputs(self: Loop, *args: torch.Tensor) -> torch.Tensor:
            bad = self.step == step and self.optimizer.param_groups[0]["lr"] >= lr
            return real(self, *args) * (math.nan if bad else 1.0)

        monkeypatch.setattr(Loop, "_inputs", inputs)

    return poison


def configured(small: Small, method: str = "geolora", **training: object) -> TrainConfig:
    training = {"epochs": 3, "lr": 0.04, "schedule": "constant"} | training
    return small(model={"name": "mlp"}, method={"name": method} if method != "dense" else {}, training=training)


@pytest.mark.parametrize("method", ["dense", "condlr", "geolora", "dlrt"])
def test_by_default_training_stops_and_keeps_its_last_epoch(small: Small, tmp_path: Path, poisoned, method: str) -> None:
    poisoned(4, 0.0)
    with pytest.raises(TrainingError, match=r"epoch 2 at step 5: the gradient of \w+ of layer 'fc1' is not finite; try a smaller"):
        train(configured(small, method), tmp_path / "run")
    run = records.read_run(tmp_path / "run")
    assert (run.record.status, run.record.epochs_done) == ("running", 1)
    assert all(bool(parameter.isfinite().all()) for parameter in load_network(tmp_path / "run").parameters())


@pytest.mark.parametrize("method", ["dense", "geolora"])
@pytest.mark.parametrize(
    "schedule", [{"schedule": "constant"}, {"schedule": "multistep", "milestones": [2]}, {"schedule": "cosine"}]
)
def test_a_rollback_halves_the_learning_rate_from_the_last_epoch_on(
    small: Small, tmp_path: Path, poisoned, method: str, schedule: dict[str, object]
) -> None:
    plain = train(configured(small, method, **schedule), tmp_path / "plain")
    poisoned(4, 0.01)
    said: list[str] = []
    config = configured(small, method, on_nonfinite="rollback", **schedule)
    run = train(config, tmp_path / "run", progress=lambda progress: said.extend(progress.alerts))
    rates, expected = run.metrics["lr"].tolist(), plain.metrics["lr"].tolist()
    halvings = len(run.record.remarks)
    assert halvings >= 1 and run.record.status == "complete"
    assert said == run.record.remarks
    assert "epoch 2 at step 5" in said[0] and "end of epoch 1, with the learning rate times 0.5" in said[0]
    if halvings <= 2:  # else it began anew
        assert rates[0] == expected[0]
    assert rates[1:] == pytest.approx([rate * 0.5**halvings for rate in expected[1:]])


def test_a_training_that_goes_back_twice_in_vain_begins_anew(small: Small, tmp_path: Path, poisoned) -> None:
    poisoned(4, 0.006)
    run = train(configured(small, on_nonfinite="rollback"), tmp_path / "run")
    assert run.metrics["lr"].tolist() == [0.005] * 3
    assert [("the beginning" in remark, "end of epoch 1" in remark) for remark in run.record.remarks] == [
        (False, True),
        (False, True),
        (True, False),
    ]


def test_a_training_that_nothing_helps_stops(small: Small, tmp_path: Path, poisoned) -> None:
    poisoned(4, 0.0)
    with pytest.raises(TrainingError, match=r"epoch 2 at step 5: .*\nHalving it 5 times has not helped"):
        train(configured(small, on_nonfinite="rollback"), tmp_path / "run")
    assert records.read_run(tmp_path / "run").record.epochs_done == 1


@pytest.mark.parametrize("stop", [(1, 2), (2, 1), (3, 2)], ids=["before", "at once after", "later"])
def test_an_interrupted_training_goes_back_as_one_that_runs_through(
    small: Small, tmp_path: Path, poisoned, stop: tuple[int, int]
) -> None:
    poisoned(4, 0.03)
    config = configured(small, on_nonfinite="rollback")
    through = train(config, tmp_path / "through")
    seen: list[tuple[int, int]] = []

    def interrupt(progress: Progress) -> None:
        seen.append((progress.epoch, progress.step))
        if progress.epoch == stop[0] and sum(epoch == stop[0] for epoch, _ in seen) > stop[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "again", progress=interrupt)
    again = train(config, tmp_path / "again")
    assert again.record.remarks == through.record.remarks and len(through.record.remarks) == 1
    assert again.metrics["lr"].tolist() == through.metrics["lr"].tolist() == [0.04, 0.02, 0.02]
    one, two = (checkpoint.digest(load_network(tmp_path / name)) for name in ("through", "again"))
    assert one == two


def test_a_record_is_as_before_unless_a_rollback_is_asked_for(small: Small) -> None:
    assert "on_nonfinite" not in small().to_record()["training"]
    record = configured(small, on_nonfinite="rollback").to_record()
    assert TrainConfig.from_record(record).training.on_nonfinite == "rollback"
