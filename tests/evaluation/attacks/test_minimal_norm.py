"""FMN, DDN, C&W and HopSkipJump against closed forms, and what they have in common."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import FAB, PGD, DeepFool, Suite, check, evaluate, minimal, verify
from robust_lowrank.evaluation.attacks.carlini_wagner import CarliniWagner
from robust_lowrank.evaluation.attacks.ddn import DDN
from robust_lowrank.evaluation.attacks.fmn import FMN, onto_ball
from robust_lowrank.evaluation.attacks.hopskipjump import HopSkipJump
from robust_lowrank.evaluation.attacks.hyperplane import DUALS, ORDERS, lengths
from robust_lowrank.threat import KeyedNoise, Linf, threat

EPS = {"Linf": 0.09, "L2": 0.48, "L1": 1.3}  # about half of the digits break there
CASES = [("fmn", "Linf", 1.01), ("fmn", "L2", 1.01), ("fmn", "L1", 1.02), ("ddn", "L2", 1.05), ("cw", "L2", 1.2)]
CASES += [("hopskipjump", "L2", 1.1), ("hopskipjump", "Linf", 1.2)]
ATTACKS = {"fmn": FMN(), "ddn": DDN(), "cw": CarliniWagner(binary_search_steps=4), "hopskipjump": HopSkipJump(steps=6)}


def keyed(count: int) -> KeyedNoise:
    return KeyedNoise(0, "hopskipjump", torch.arange(count))


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(("method", "norm", "factor"), CASES)
def test_linear_models_have_the_closed_form_distance(method: Any, norm: str, factor: float, classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes)).double()
    model[1].bias.data = -model[1].weight.data.sum(dim=1) / 2
    x = 0.5 + (0.02 if method == "fmn" else 0.1) * torch.randn(12, 1, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    y, weight = logits.argmax(dim=1), model[1].weight.detach()
    dual = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=DUALS[norm], dim=2)
    every = (logits.gather(1, y[:, None]) - logits) / dual
    expected = every.scatter(1, y[:, None], torch.inf).amin(dim=1)
    if method == "ddn" and classes == 10:
        factor = 1.6  # the cross-entropy of many near classes does not lead to the nearest one
    found = minimal(model, x, y, norm, noise=keyed(12), method=method)
    assert (found.distance >= expected * (1 - 1e-9)).all()
    assert (found.distance <= factor * expected).double().mean() >= (1 if method == "fmn" else 0.8)
    assert (model(found.inputs).argmax(dim=1) != y).all()
    torch.testing.assert_close(lengths(found.inputs - x, norm), found.distance, rtol=1e-12, atol=0)
    assert not found.nonfinite.any()


@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name, attack in ATTACKS.items() for norm in attack.norms])
def test_claims_are_what_the_check_finds_and_passes_are_counted(name: str, norm: str, cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:32], digits.y[:32]
    budget = threat(norm, EPS[norm], features=64)
    sizes: list[int] = []
    hook = cnn.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    attempt = ATTACKS[name].attempt(cnn, x, y, budget, keyed(32))
    hook.remove()
    assert sum(sizes) == int(attempt.forwards.sum())
    assert int((attempt.forwards + attempt.backwards).max()) <= ATTACKS[name].cost(10, norm)
    seen = check(cnn, x, y, attempt.inputs, budget)
    assert torch.equal(seen.broken | attempt.claimed, seen.broken)
    assert attempt.claimed.double().mean() > (0.1 if name == "hopskipjump" else 0.3)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("norm", ORDERS)
def test_fmn_finds_what_fab_finds(norm: str, cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:64], digits.y[:64]
    quick, slow = (minimal(cnn, x, y, norm, noise=keyed(64), method=method) for method in ("fmn", "fab"))
    assert quick.distance.isfinite().all()
    assert float(quick.distance.median()) <= 1.15 * float(slow.distance.median())


def test_hopskipjump_sees_classes_alone(cnn: nn.Module, digits: Any) -> None:
    class Hard(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return nn.functional.one_hot(cnn(x).argmax(dim=1), 10).float()

    x, y = digits.x[:16], digits.y[:16]
    soft, hard = (minimal(model, x, y, "L2", noise=keyed(16), method="hopskipjump", steps=5) for model in (cnn, Hard()))
    assert torch.equal(soft.inputs, hard.inputs)
    suite = Suite(name="s", norm="L2", eps=(2.0,), attacks=(HopSkipJump(steps=5),))
    assert float(evaluate(Hard(), x, y, suite=suite, gradients=False).robust_accuracy) < 0.5


@pytest.mark.slow
def test_verdicts_do_not_depend_on_the_batch(cnn: nn.Module, digits: Any) -> None:
    suite = Suite(name="s", norm="L2", eps=(0.3, 0.5), attacks=tuple(ATTACKS.values()))
    sizes = (20, 7)
    one, other = (evaluate(cnn, digits.x[:20], digits.y[:20], suite=suite, batch_size=size, audit=False) for size in sizes)
    columns = ["example", "attack", "eps", "verdict", "margin", "distance"]
    assert one.verdicts[columns].sort_values(columns[:3]).equals(other.verdicts[columns].sort_values(columns[:3]))


def test_hopskipjump_on_doubles_knows_nothing_of_its_neighbours(mlp: nn.Module, digits: Any) -> None:
    model, x, y = copy.deepcopy(mlp).double(), digits.x[:24].double(), digits.y[:24]
    suite = Suite(name="s", norm="Linf", eps=(0.15,), attacks=(HopSkipJump(steps=3),))
    one, other = (evaluate(model, x, y, suite=suite, batch_size=size, audit=False).verdicts for size in (24, 1))
    assert one["distance"].equals(other["distance"])
    assert one["margin"].equals(other["margin"])


@pytest.mark.parametrize("attack", [FMN(steps=20), DeepFool(), FAB(steps=5)], ids=lambda attack: attack.label)
def test_a_search_on_survivors_finds_the_nearest_within_every_radius(attack: Any, cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:40], digits.y[:40]

    def robust(examples: str) -> list[str]:
        attacks = (PGD(steps=40, eps=(0.09,)), attack.model_copy(update={"examples": examples}))
        result = evaluate(cnn, x, y, suite=Suite(name="s", eps=(0.03, 0.05, 0.09), attacks=attacks), audit=False)
        frame = result.verdicts[result.verdicts["attack"].str.startswith(attack.label) & (result.verdicts["eps"] < 0.09)]
        return frame["verdict"].tolist()

    assert robust("survivors") == robust("correct")


@pytest.mark.parametrize("attack", [FMN(steps=1), HopSkipJump(steps=1)], ids=lambda attack: attack.label)
def test_a_search_on_survivors_takes_over_what_is_broken_within_each_radius(attack: Any, cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:60], digits.y[:60]
    attacks = (PGD(steps=40), attack.model_copy(update={"examples": "survivors"}))
    found = evaluate(cnn, x, y, suite=Suite(name="s", eps=(0.03, 0.06, 0.1), attacks=attacks), audit=False)
    assert verify(cnn, x, y, found.record, found.verdicts, found.adversarial, found.closest).faults == ()
    broken = {key: set(part.examples.tolist()) for key, part in found.adversarial.items()}
    for eps in (0.03, 0.06, 0.1):
        assert broken[f"{attack.label}-on-survivors/{eps!r}"] >= broken[f"pgd-40/{eps!r}"]


def test_an_attack_of_another_norm_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="ddn measures distances in L2, not in Linf"):
        Suite(name="s", eps=(0.1,), attacks=(DDN(),))
    suite = Suite(name="s", norm="L2", eps=(0.1,), attacks=(HopSkipJump(),))
    with pytest.raises(UserError, match="hopskipjump measures distances in Linf or L2, not in L1"):
        suite.replaced(norm="L1", eps=1.0)
    with pytest.raises(UserError, match="ddn measures distances in L2, not in Linf"):
        DDN().attempt(nn.Linear(2, 2), torch.rand(1, 2), torch.tensor([0]), Linf(0.1), keyed(1))
    with pytest.raises(UserError, match="DDN measures distances in L2"):
        minimal(nn.Linear(2, 2), torch.rand(1, 2), torch.tensor([0]), "Linf", noise=keyed(1), method="ddn")


def test_projections_onto_balls_of_their_own_are_the_nearest_points() -> None:
    torch.manual_seed(0)
    change, radius = torch.randn(50, 7, dtype=torch.float64), torch.rand(50, dtype=torch.float64) * 3
    for norm in ORDERS:
        found = onto_ball(change, radius, norm)
        assert (lengths(found, norm) <= radius * (1 + 1e-12)).all()
        for _ in range(50):  # no other point of the ball is nearer
            other = torch.randn(50, 7, dtype=torch.float64)
            other *= (radius * torch.rand(50, dtype=torch.float64) / lengths(other, norm))[:, None]
            assert ((change - found).norm(dim=1) <= (change - other).norm(dim=1) + 1e-12).all()


def test_a_model_without_slope_ends() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([0 * x.sum(dim=1) + 1, 0 * x.sum(dim=1)], dim=1)

    x, y = torch.rand(3, 4), torch.tensor([0, 0, 1])
    for method in ("fmn", "ddn", "cw", "hopskipjump"):
        found = minimal(Constant(), x, y, "L2", noise=keyed(3), method=method)
        assert found.distance.tolist() == [torch.inf, torch.inf, 0]
    assert not FMN().attempt(Constant(), x, y, Linf(0.1), keyed(3)).claimed[:2].any()
