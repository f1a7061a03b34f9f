"""What an evaluation will cost at most is known before it starts."""

import pytest
import torch
from torch import nn

from robust_lowrank.evaluation import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AAFast,
    AANative,
    DeepFool,
    EvalConfig,
    Meter,
    MomentumPGD,
    RandomNoise,
    Square,
    Suite,
    load_suite,
    suite_names,
)
from robust_lowrank.evaluation.forecast import forecast
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.target import checked_target
from robust_lowrank.evaluation.run import Run
from robust_lowrank.threat import frozen_eval

ATTACKS = (
    FGSM(),
    PGD(steps=20, restarts=2),
    MomentumPGD(steps=20),
    RandomNoise(draws=30),
    APGD(steps=30),
    APGD(loss="dlr", steps=30, restarts=2),
    APGD(loss="targeted-dlr", steps=30, targets=2),
    DeepFool(steps=5),
    FAB(steps=20, targets=2),
    Square(queries=60),
)
SUITES = [Suite(name="s", norm=norm, eps=eps, attacks=ATTACKS) for norm, eps in (("Linf", (0.1,)), ("L1", (1.0,)))]


def spent(model, x, y, config) -> tuple[int, dict]:
    meter = Meter(max_passes=10**12)  # under a limit no trial is made ahead, in vain for the example
    with frozen_eval(model):
        run = Run(model, x, y, config)
        run.execute(meter)
    return meter.passes, {
        (ledger.attack, ledger.eps): int(ledger.forwards.sum() + ledger.backwards.sum()) for ledger in run.ledgers
    }


class Firm(nn.Module):
    """Has gradients, and a class that nothing can change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)) + torch.tensor([1000.0, 0, 0, 0, 0])


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.norm)
def test_passes_are_those_of_a_network_that_nothing_breaks(digits, suite):
    model, x, y = Firm(), digits.x[:10], torch.zeros(10, dtype=torch.int64)
    found = forecast(model, x, y, EvalConfig.resolve(suite))
    total, each = spent(model, x, y, EvalConfig.resolve(suite))
    assert total <= found.passes <= 1.05 * total
    for share in found.shares:
        assert each[share.attack, share.eps] <= share.passes


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.norm)
def test_passes_are_an_upper_bound(mlp, digits, suite):
    x, y = digits.x[:20], digits.y[:20]
    found = forecast(mlp, x, y, EvalConfig.resolve(suite))
    total, each = spent(mlp, x, y, EvalConfig.resolve(suite))
    assert total <= found.passes
    for share in found.shares:
        assert each[share.attack, share.eps] <= share.passes
    assert found.examples == 20
    assert found.seconds > 0
    assert found.memory > 0
    assert found.seconds == sum(share.seconds for share in found.shares)


@pytest.mark.parametrize("name", suite_names())
def test_every_suite_has_a_forecast(mlp, digits, name):
    suite = load_suite(name)
    config = EvalConfig.resolve(suite) if name != "rand" else EvalConfig.resolve(suite, eps=0.03)
    if all(spec.attack == "transfer" for spec in suite.attacks):
        pytest.skip("only transfer")
    found = forecast(mlp, digits.x[:20], digits.y[:20], config)
    assert found.passes > 0


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L1"])
@pytest.mark.parametrize("attack", [AANative(), AAFast(share=1.0)], ids=lambda attack: attack.name)
def test_an_ensemble_costs_what_was_said(digits, attack, norm):
    model, x, y = Firm(), digits.x[:2], torch.zeros(2, dtype=torch.int64)
    config = EvalConfig.resolve(Suite(name="s", norm=norm, eps=(0.1,), attacks=(attack,)))
    total, _ = spent(model, x, y, config)
    assert total <= forecast(model, x, y, config).passes <= 1.05 * total


def test_what_is_drawn_as_a_sample_changes_no_forecast(digits):
    model, x, y = Firm(), digits.x[:2], torch.zeros(2, dtype=torch.int64)
    some, every = (
        forecast(model, x, y, EvalConfig.resolve(Suite(name="s", eps=(0.1,), attacks=(AAFast(share=share),))))
        for share in (0.15, 1.0)
    )
    assert some.passes == every.passes


def test_trials_ahead_take_no_more_rows_than_padding_would(digits):
    model, x, y = Firm(), digits.x[:2], torch.zeros(2, dtype=torch.int64)
    config = EvalConfig.resolve(Suite(name="s", norm="Linf", eps=(0.1,), attacks=(Square(queries=300),)))
    most = forecast(model, x, y, config).passes
    meter = Meter()
    with frozen_eval(model):
        Run(model, x, y, config).execute(meter)
    piece = FixedBatch(checked_target(model, x, y)).piece
    assert meter.passes <= piece * most / len(x)
