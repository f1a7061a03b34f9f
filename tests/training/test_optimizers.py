import warnings
from typing import Any

import pytest
import torch
from torch import nn

from robust_lowrank.training import TrainingConfig
from robust_lowrank.training.optimizers import make_optimizer, make_schedule

STEPS = 10  # an epoch


def rates(**options: Any) -> list[float]:
    """Return the learning rate of each step of three epochs."""
    config = TrainingConfig.model_validate({"epochs": 3, "lr": 0.4, **options})
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, steps_per_epoch=STEPS)
    seen = []
    for _ in range(3 * STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    return seen


def test_constant() -> None:
    assert rates(schedule="constant") == [0.4] * 30


def test_multistep_falls_after_its_milestones() -> None:
    assert rates(schedule="multistep", milestones=[1, 2], gamma=0.5) == pytest.approx([0.4] * 10 + [0.2] * 10 + [0.1] * 10)


def test_cosine_falls_to_nothing() -> None:
    seen = rates(schedule="cosine")
    assert seen == sorted(seen, reverse=True)
    assert seen[0] == 0.4
    assert seen[15] == pytest.approx(0.2)
    assert seen[-1] < 0.002


def test_one_cycle_peaks_at_the_rate_and_falls_to_nearly_nothing() -> None:
    seen = rates(schedule="one-cycle")
    assert seen[0] == pytest.approx(0.4 / 25)
    assert max(seen) == pytest.approx(0.4)
    assert seen.index(max(seen)) == 8
    assert seen[-1] < 1e-4


def test_one_cycle_leaves_the_momentum_alone() -> None:
    config = TrainingConfig(momentum=0.7)
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    make_schedule(optimizer, config, steps_per_epoch=4)
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_a_cycled_momentum_is_least_where_the_rate_is_largest() -> None:
    config = TrainingConfig(epochs=1, cycle_momentum=True)
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, steps_per_epoch=10)
    momenta, steps = [], []
    for _ in range(10):
        momenta.append(optimizer.param_groups[0]["momentum"])
        steps.append(optimizer.param_groups[0]["lr"])
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    assert (max(momenta), min(momenta)) == pytest.approx((0.95, 0.85))
    assert momenta.index(min(momenta)) == steps.index(max(steps))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle"])
def test_a_run_of_a_single_step_has_a_schedule(schedule: str) -> None:
    config = TrainingConfig.model_validate({"epochs": 1, "schedule": schedule})
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepper = make_schedule(optimizer, config, steps_per_epoch=1)
        assert 0 < optimizer.param_groups[0]["lr"] <= config.lr
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        stepper.step()


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_options_reach_the_torch_optimizer(name: str, kind: type) -> None:
    config = TrainingConfig.model_validate({"optimizer": name, "lr": 0.02, "weight_decay": 0.003})
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    assert type(optimizer.inner) is kind
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.02, 0.003)
    assert optimizer.defaults.get("momentum") == (0.3 if name == "sgd" else None)
