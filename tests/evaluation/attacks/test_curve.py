"""A search for the place on the curve tries the largest radius that may hold, and says what it implies at smaller ones."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.evaluation import APGD, PGD, Curve, EvalConfig, Suite, evaluate, forecast, verify
from robust_lowrank.evaluation.attacks import curve as module
from robust_lowrank.evaluation.attacks.hyperplane import DUALS
from robust_lowrank.evaluation.sample import Account, implied_of
from robust_lowrank.evaluation.unit_result import HELD, IMPLIED
from robust_lowrank.threat import THREATS, KeyedNoise, Linf

RADII = (0.04, 0.08, 0.12, 0.16)


def suite(*attacks, eps=RADII, norm: Any = "Linf") -> Suite:
    return Suite(name="s", norm=norm, eps=eps, attacks=attacks)


def flagged(verdicts, begin: str) -> dict[tuple[int, float], float]:
    """Return the radius in the flags that begin so, by example and eps."""
    found = {}
    for example, eps, flags in zip(verdicts["example"], verdicts["eps"], verdicts["flags"], strict=True):
        for flag in filter(lambda flag: flag.startswith(begin), flags.split(",")):
            found[example, eps] = float(flag.removeprefix(begin))
    return found


@pytest.mark.parametrize("norm", THREATS)
def test_a_linear_network_has_the_curve_of_its_closed_form(norm):
    torch.manual_seed(0)
    linear = nn.Linear(12, 2).double()  # whose losses all lead straight to the boundary
    linear.bias.data = -linear.weight.data.sum(dim=1) / 2
    x = 0.5 + 0.02 * torch.randn(32, 12, dtype=torch.float64)
    logits, weight = linear(x).detach(), linear.weight.detach()
    y = logits.argmax(dim=1)
    every = (logits.gather(1, y[:, None]) - logits) / torch.linalg.vector_norm(weight[y][:, None] - weight, ord=DUALS[norm], dim=2)
    distance = every.scatter(1, y[:, None], torch.inf).amin(dim=1)
    radii = tuple(float(distance.quantile(share)) for share in (0.2, 0.4, 0.6, 0.8))
    clear = (distance[:, None] / torch.tensor(radii, dtype=torch.float64) - 1).abs().amin(dim=1) > 0.02
    x, y, distance = x[clear], y[clear], distance[clear]
    assert radii[-1] < 0.5  # no face of the cube is near
    found = evaluate(linear, x, y, suite=suite(Curve(fmn_steps=40, steps=60), eps=radii, norm=norm), audit=False)
    frame = found.verdicts
    for eps in radii:
        assert ((frame[frame["eps"] == eps]["verdict"] == "robust").to_numpy() == (distance > eps).numpy()).all()
    expected = {}
    for example, reach in enumerate(distance.tolist()):
        held = max((eps for eps in radii if eps < reach), default=0.0)
        expected |= {(example, eps): held for eps in radii if eps < held}
    assert flagged(frame, IMPLIED) == expected
    assert len(expected) > 20


def test_radii_are_tried_from_above_until_one_holds(mlp, digits, monkeypatch):
    """Neither at a radius within which something is known nor below one that holds; where the first guess was wrong it goes on."""
    x, y = digits.x[:40], digits.y[:40]
    right = mlp(x).argmax(dim=1) == y
    tried: list[tuple[int, float, bool]] = []

    def noted(model, x, y, threat, *, noise, **options) -> object:
        attempt = apgd(model, x, y, threat, noise=noise, **options)
        tried.extend(zip(noise.rows.tolist(), [threat.eps] * len(x), attempt.claimed.tolist(), strict=True))
        return attempt

    apgd = module.apgd
    monkeypatch.setattr(module, "apgd", noted)
    attempt = Curve(fmn_steps=1, steps=8).attempt(
        mlp, x[right], y[right], Linf(RADII[-1]), KeyedNoise(0, "curve", torch.arange(int(right.sum()))), RADII
    )
    assert attempt.held is not None
    several, distance = 0, _distance(x[right], attempt.inputs).tolist()
    for example, held in enumerate(attempt.held.tolist()):
        own = [(eps, broke) for row, eps, broke in tried if row == example]
        radii = list(dict.fromkeys(eps for eps, _ in own))
        assert radii == sorted(radii, reverse=True)
        broken = [eps for eps, broke in own if broke]
        vain = [eps for eps in radii if eps not in broken]
        assert vain == ([held] if held else [])
        assert sum(eps == held for eps, _ in own) == (len(module.LOSSES) if held else 0)
        above = next((eps for eps in RADII if eps > held), None)
        assert above is None or held < distance[example] <= above
        several += len(broken) > 0 and held > 0
    assert several > 3


def _distance(x: Tensor, inputs: Tensor) -> Tensor:
    return (inputs.double() - x.double()).flatten(1).abs().amax(dim=1)


def test_it_finds_what_attacks_at_every_radius_find(mlp, digits):
    x, y = digits.x[:100], digits.y[:100]
    search = evaluate(mlp, x, y, suite=suite(Curve()), audit=False)
    every = evaluate(mlp, x, y, suite=suite(PGD(steps=40), APGD(examples="survivors")), audit=False)
    for eps in RADII:
        assert search.accuracy("worst", eps).value <= every.accuracy("worst", eps).value + 0.01
    assert search.record.passes is not None
    assert every.record.passes is not None
    assert search.record.passes < every.record.passes / 3


def test_a_result_says_what_is_implied_and_is_verified(mlp, digits):
    x, y = digits.x[:40], digits.y[:40]
    found = evaluate(mlp, x, y, suite=suite(Curve(steps=4)), audit=False)
    implied, frame = flagged(found.verdicts, IMPLIED), found.verdicts
    held = flagged(frame[frame["eps"] == RADII[-1]], HELD)
    assert implied
    assert all(held[example, RADII[-1]] == by > eps for (example, eps), by in implied.items())
    robust = frame[frame["verdict"] == "robust"]
    assert set(implied) <= set(zip(robust["example"], robust["eps"], strict=True))
    for entry in found.record.accuracies:
        assert entry.implied == sum(eps == entry.eps for _, eps in implied)
    assert verify(mlp, x, y, found.record, frame, found.adversarial, found.closest).sound
    silent = frame.assign(flags=[flags if not flags.startswith(IMPLIED) else "" for flags in frame["flags"]])
    faults = verify(mlp, x, y, found.record, silent, found.adversarial, found.closest).faults
    assert any("a larger eps implies 0 by the verdicts" in fault for fault in faults)


def test_a_budget_that_ends_implies_nothing(mlp, digits):
    x, y = digits.x[:20], digits.y[:20]
    found = evaluate(mlp, x, y, suite=suite(Curve()), audit=False, max_passes=1500, batch_size=10)
    for _, part in found.verdicts.groupby("eps"):
        unresolved = part[part["verdict"] == "unresolved"]
        assert len(unresolved) > 0
        assert not unresolved["flags"].str.contains(IMPLIED).any()
    assert verify(mlp, x, y, found.record, found.verdicts, found.adversarial, found.closest).sound


def test_gradients_that_are_not_finite_imply_nothing(mlp, digits):
    class Late(nn.Module):
        """Not finite away from the clean images."""

        def forward(self, x: Tensor) -> Tensor:
            far = (x - digits.x[: len(x)]).flatten(1).abs().amax(dim=1, keepdim=True) > 0.05
            return model(x).masked_fill(far, torch.nan)

    model = copy.deepcopy(mlp)
    x, y = digits.x[:32], digits.y[:32]  # a piece, so that rows are those of the images
    found = evaluate(Late(), x, y, suite=suite(Curve(steps=2)), audit=False)
    lost = found.verdicts[found.verdicts["verdict"] == "nonfinite"]
    assert set(lost["eps"]) == set(RADII)
    assert not lost["flags"].str.contains(IMPLIED).any()


def test_no_example_costs_more_than_is_forecast(mlp, cnn, digits):
    x, y = digits.x[:30], digits.y[:30]
    for model, steps in ((mlp, 1), (cnn, 10)):
        attack = Curve(fmn_steps=steps, steps=10)
        found = evaluate(model, x, y, suite=suite(attack), audit=False)
        cost = found.verdicts["forwards"] + found.verdicts["backwards"]
        most = attack.most(10, "Linf", len(RADII))
        assert attack.cost(10, "Linf") < cost.max() <= most
        assert forecast(model, x, y, EvalConfig.resolve(suite(attack))).passes == 30 * (most + 1)


def test_counts_of_what_is_implied():
    both = Account("curve", [True, True, False], [["implied-by=0.2"], [], ["implied-by=0.2"]], 0)
    assert implied_of([both]) == 1
    assert implied_of([both, Account("pgd", [False, True, True], [[], [], []], 0)]) == 0
    assert implied_of([]) == 0
