"""A budget of passes or seconds is kept, and what it leaves open is said to be so."""

import time
from functools import partial

import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AutoAttack,
    DeepFool,
    EvalConfig,
    Meter,
    MomentumPGD,
    RandomNoise,
    Square,
    Suite,
    Torchattack,
)
from robust_lowrank.evaluation import (
    evaluate as audited,
)
from robust_lowrank.evaluation.run import Run

SUITE = Suite(
    name="s",
    eps=(0.05, 0.1),
    attacks=(
        FGSM(),
        PGD(steps=4, restarts=2),
        MomentumPGD(steps=3),
        RandomNoise(draws=10),
        APGD(steps=5),
        DeepFool(steps=3),
        FAB(steps=2, targets=2),
        Square(queries=30),
    ),
)
COUNT = 24
evaluate = partial(audited, audit=False)


class Counted(nn.Module):
    """Counts rows that are evaluated, padding among them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        return self.model(x)


@pytest.fixture(scope="module")
def whole(mlp, digits):
    return evaluate(mlp, digits.x[:COUNT], digits.y[:COUNT], suite=SUITE, batch_size=8)


def spent(result) -> int:
    return int(result.verdicts[["forwards", "backwards"]].to_numpy().sum())


def assert_bounds_contain(part, whole):
    for found, full in zip(part.record.accuracies, whole.record.accuracies, strict=True):
        assert (found.attack, found.eps, found.total) == (full.attack, full.eps, full.total)
        assert found.correct <= full.correct <= found.correct + found.unresolved
        assert found.low <= full.low <= full.value <= full.high <= found.high
        assert found.value == found.correct / found.total
    merged = part.verdicts.merge(whole.verdicts, on=["example", "attack", "eps"])
    decided = merged[merged["verdict_x"] != "unresolved"]
    assert (decided["verdict_x"] == decided["verdict_y"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_passes_are_never_exceeded_and_the_bounds_contain_the_whole(mlp, digits, whole, share, tmp_path):
    x, y, limit = digits.x[:COUNT], digits.y[:COUNT], int(share * spent(whole))
    part = evaluate(mlp, x, y, suite=SUITE, batch_size=8, max_passes=limit, store=tmp_path)
    assert spent(part) <= limit
    assert (part.verdicts["verdict"] == "unresolved").any()
    assert sum(entry.unresolved for entry in part.record.accuracies) > 0
    assert_bounds_contain(part, whole)
    more = evaluate(mlp, x, y, suite=SUITE, batch_size=8, max_passes=2 * spent(whole), store=tmp_path)
    assert more.verdicts.drop(columns="seconds").equals(whole.verdicts.drop(columns="seconds"))
    assert more.record.accuracies == whole.record.accuracies


def test_small_budgets_one_after_the_other_reach_the_end(mlp, digits, whole, tmp_path):
    x, y = digits.x[:COUNT], digits.y[:COUNT]
    left = []
    for _ in range(12):
        part = evaluate(mlp, x, y, suite=SUITE, batch_size=8, max_passes=spent(whole) // 3, store=tmp_path)
        left.append(int((part.verdicts["verdict"] == "unresolved").sum()))
        if not left[-1]:
            break
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)
    assert len(left) > 2
    assert part.verdicts.drop(columns="seconds").equals(whole.verdicts.drop(columns="seconds"))


def test_the_meter_counts_what_the_network_does(mlp, digits):
    meter = Meter(max_passes=200)
    Run(mlp, digits.x[:COUNT], digits.y[:COUNT], EvalConfig.resolve(SUITE)).execute(meter)
    assert meter.exhausted
    assert meter.passes <= 200


@pytest.mark.parametrize("spec", [AutoAttack(), Torchattack(algorithm="PGD", parameters={"steps": 200})], ids=lambda s: s.label)
def test_attacks_of_other_packages_are_stopped_too(mlp, digits, spec):
    x, y, suite = digits.x[:COUNT], digits.y[:COUNT], Suite(name="s", eps=(0.02,), attacks=(spec,))
    model = Counted(mlp)
    result = evaluate(model, x, y, suite=suite, max_passes=500)
    assert model.rows < 500 + 200  # the probe and clean rows are no attack
    attacked = result.verdicts[result.verdicts["verdict"] != "misclassified"]
    assert (attacked["verdict"] == "unresolved").all()
    robust = result.record.accuracies[-1]
    assert (robust.correct, robust.unresolved) == (0, len(attacked))
    assert robust.high == result.accuracy("clean").high


@pytest.mark.parametrize("suite", [SUITE, Suite(name="s", eps=(0.02,), attacks=(AutoAttack(),))], ids=["native", "autoattack"])
def test_time_is_kept(mlp, digits, suite):
    begun = time.monotonic()
    result = evaluate(mlp, digits.x[:COUNT], digits.y[:COUNT], suite=suite, max_seconds=0.05)
    assert time.monotonic() - begun < 5
    assert (result.verdicts["verdict"] == "unresolved").any()
    assert result.robust_accuracy.low < result.robust_accuracy.high <= result.clean_accuracy.high


@pytest.mark.parametrize(
    "limit", [{"max_passes": 0}, {"max_passes": -1}, {"max_seconds": 0}, {"max_seconds": -2.0}, {"max_seconds": float("nan")}]
)
def test_limits_that_are_none_are_refused(mlp, digits, limit):
    (name,) = limit
    with pytest.raises(UserError, match=name):
        evaluate(mlp, digits.x[:4], digits.y[:4], suite="quick", **limit)


def test_without_limits_nothing_is_unresolved(whole):
    assert "unresolved" not in set(whole.verdicts["verdict"])
    assert not any(entry.unresolved for entry in whole.record.accuracies)
