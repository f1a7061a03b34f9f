import copy
import logging

import pytest
import torch
from pyautoattack import autopgd_base
from torch import nn
from torch.nn import functional

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.apgd import apgd
from robust_lowrank.evaluation.attacks.apgd_paths import MomentumPath, SparsePath
from robust_lowrank.evaluation.attacks.gradients import cross_entropy, dlr, input_gradient, runner_up_classes
from robust_lowrank.evaluation.verdict import check, margins
from robust_lowrank.threat import THREATS, KeyedNoise, Linf, threat

LOSSES = ["ce", "dlr", "targeted-dlr"]
DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}
EPS = {"Linf": 0.12, "L2": 0.9, "L1": 1.8}  # where about half of the hardened network's examples hold


class Opposed(nn.Module):
    """Logits (z, -z) with z linear, and three equal ones far below: every loss rises with -z or z, along the same direction."""

    def __init__(self, weight: torch.Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.flatten(1) @ self.weight + self.bias
        return torch.stack([z, -z, *[torch.full_like(z, -30.0)] * 3], dim=1)


class Recorder(nn.Module):
    """A model that remembers what it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(x.detach().clone())
        return self.model(x)


class PublishedCount(autopgd_base.APGDAttack):
    """Upstream's attack, whose first count of rises is of the first step over the start, as published.

    Upstream compares the first step with a row of losses that it has yet to write, of zeros: no step raises a negative loss
    above it. Where 17 of the first 22 steps rise, it alone shortens them.
    """

    start: torch.Tensor  # losses

    def check_oscillation(self, losses, step, count, *rest, **options):
        if step < count:
            losses[-1] = self.start
        return super().check_oscillation(losses, step, count, *rest, **options)


def keyed(count: int, seed: int = 0) -> KeyedNoise:
    return KeyedNoise(seed, "apgd", torch.arange(count))


@pytest.fixture(scope="module")
def hardened(digits) -> nn.Module:
    """A small network trained on what PGD makes of its examples."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 48), nn.ReLU(), nn.Linear(48, 10)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(12):
        for rows in torch.randperm(len(digits.train_x)).split(100):
            x, y = digits.train_x[rows], digits.train_y[rows]
            harmful = x
            for _ in range(4):
                leaf = harmful.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), y), leaf)
                harmful = Linf(0.1).project(x, harmful + 0.04 * gradient.sign())
            optimizer.zero_grad()
            functional.cross_entropy(model(harmful), y).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def correct(hardened, digits) -> tuple[torch.Tensor, torch.Tensor]:
    """A hundred examples that the network gets right."""
    with torch.no_grad():
        rows = (hardened(digits.x).argmax(dim=1) == digits.y).nonzero().squeeze(1)[:100]
    return digits.x[rows], digits.y[rows]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", THREATS)
def test_linear_models_are_driven_to_the_exact_minimum_margin(norm, loss):
    weight = torch.randn(12, dtype=torch.float64)
    if norm == "L1":  # the rule for L1 moves two features or more: then the best two are equally good
        weight[:2] = weight.abs().max()
    x = 0.5 + 0.02 * torch.randn(24, 3, 2, 2, dtype=torch.float64)
    z = x.flatten(1) @ weight
    bias = -float(z.median())
    model, y = Opposed(weight, bias), (z + bias < 0).long()
    size = float(torch.linalg.vector_norm(weight, ord=DUAL[norm]))
    critical = (z + bias).abs() / size
    eps = float(critical.sort().values[11:13].mean())
    attempt = apgd(model, x, y, threat(norm, eps, features=12), noise=keyed(24), loss=loss, targets=1)
    assert attempt.claimed.tolist() == (critical < eps).tolist()
    with torch.no_grad():
        margin = margins(model(attempt.inputs), y)
    held = critical > eps
    torch.testing.assert_close(margin[held], 2 * size * (critical - eps)[held], rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_robust_examples_take_the_path_of_upstream_from_the_same_start(hardened, correct, norm, loss):
    model = copy.deepcopy(hardened).double()
    x, y = correct[0][:40].double(), correct[1][:40]
    budget = threat(norm, EPS[norm] / 4, features=64)
    held = ~apgd(model, x, y, budget, noise=keyed(40), loss=loss).claimed
    assert held.sum() > 30

    ours, theirs = Recorder(model), Recorder(model)
    apgd(ours, x[held], y[held], budget, noise=KeyedNoise(0, "apgd", held.nonzero().squeeze(1)), loss=loss)
    upstream = PublishedCount(
        theirs, norm=norm, eps=budget.eps, loss=loss, seed=0, device="cpu", logger=logging.getLogger("silent")
    )
    upstream.init_hyperparam(x)
    with torch.no_grad():
        upstream.start = (cross_entropy if loss == "ce" else dlr)(model(ours.asked[0]), y[held])
    torch.set_default_dtype(torch.float64)  # in which upstream keeps losses: in float32 there would be ties
    try:
        upstream.attack_single_run(x[held], y[held], x_init=ours.asked[0])
    finally:
        torch.set_default_dtype(torch.float32)

    apart = (torch.stack(ours.asked) - torch.stack(theirs.asked)).abs().flatten(2).amax(dim=2)
    assert len(apart) == 101
    assert bool((apart < 1e-6).all())


@pytest.mark.parametrize("kind", ["ce", pytest.param("targeted-dlr", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", THREATS)
def test_it_breaks_what_upstream_breaks_and_costs_what_upstream_costs(hardened, correct, norm, kind):
    x, y = correct
    budget = threat(norm, EPS[norm], features=64)
    targets = 5 if norm == "L1" else 9
    attack = apgd(hardened, x, y, budget, noise=keyed(100), loss=kind, targets=targets)

    model = Recorder(hardened)
    options = {"norm": norm, "eps": budget.eps, "seed": 0, "device": "cpu", "use_largereps": norm == "L1"}
    if kind == "ce":
        upstream = autopgd_base.APGDAttack(model, **options)
    else:
        upstream = autopgd_base.APGDAttack_targeted(model, n_target_classes=targets, logger=logging.getLogger("silent"), **options)
    with torch.random.fork_rng():
        theirs = check(hardened, x, y, upstream.perturb(x.clone(), y), budget).broken
    ours = check(hardened, x, y, attack.inputs, budget).broken
    assert torch.equal(ours, attack.claimed)
    assert 10 < int(ours.sum()) < 90
    assert int(ours.sum()) >= int(theirs.sum()) - 1
    held = attack.forwards[~ours]
    assert (held == held[0]).all()
    assert abs(int(held[0]) / len(model.asked) - 1) < 0.02


def test_targeted_runs_follow_the_order_of_the_clean_logits():
    logits = torch.tensor([[1.0, 5.0, 3.0, 4.0], [9.0, 2.0, 2.0, 8.0]])
    assert runner_up_classes(logits, torch.tensor([1, 3]), 9).tolist() == [[3, 2, 0], [0, 1, 2]]


@pytest.mark.parametrize(("targets", "runs"), [(1, 1), (3, 3), (20, 9)])
def test_there_are_no_more_targeted_runs_than_other_classes(hardened, correct, targets, runs):
    x, y = correct[0][:4], correct[1][:4]
    attempt = apgd(hardened, x, y, Linf(1e-4), noise=keyed(4), loss="targeted-dlr", steps=3, restarts=2, targets=targets)
    assert (attempt.backwards == runs * 2 * 4).all()
    assert (attempt.forwards == runs * 2 * 4 + 1).all()


@pytest.mark.parametrize("norm", THREATS)
def test_an_example_gets_on_alone_as_it_does_among_others(hardened, correct, norm):
    model, x, y = copy.deepcopy(hardened).double(), correct[0][:20].double(), correct[1][:20]
    budget = threat(norm, EPS[norm], features=64)

    def attack(rows: torch.Tensor):
        noise = KeyedNoise(3, "apgd", rows)
        return apgd(model, x[rows], y[rows], budget, noise=noise, steps=12, restarts=2)

    together, order = attack(torch.arange(20)), torch.randperm(20)
    shuffled = attack(order)
    alone = [attack(torch.tensor([row])) for row in range(20)]
    assert 0 < int(together.claimed.sum()) < 20
    torch.testing.assert_close(shuffled.inputs, together.inputs[order], rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cat([one.inputs for one in alone]), together.inputs, rtol=0, atol=1e-9)
    for field in ("claimed", "forwards", "backwards"):
        assert torch.equal(torch.cat([getattr(one, field) for one in alone]), getattr(together, field))
        assert torch.equal(getattr(shuffled, field), getattr(together, field)[order])


@pytest.mark.parametrize("norm", THREATS)
def test_a_path_keeps_the_best_point_and_shortens_its_step(hardened, correct, norm):
    x, y = correct[0][:10].double(), correct[1][:10]
    model, budget = copy.deepcopy(hardened).double(), threat(norm, EPS[norm], features=64)
    kind = SparsePath if norm == "L1" else MomentumPath

    def evaluate(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, loss, gradient, _ = input_gradient(model, point, y, cross_entropy)
        return loss, gradient

    loss, gradient = evaluate(x)
    path = kind(budget, x, x, loss, gradient, 60)
    best, first = path.best_loss, path.step
    for _ in range(60):
        point = path.next()
        assert budget.contains(x, point).all()
        path.arrive(point, *evaluate(point))
        assert (path.best_loss >= best).all()
        best = path.best_loss
    torch.testing.assert_close(evaluate(path.best)[0], best)
    assert (best > evaluate(x)[0]).all()
    assert (path.step < first).any()


def test_broken_examples_leave_the_batch_at_once(hardened, correct):
    model = Recorder(hardened)
    x, y = correct
    attempt = apgd(model, x, y, Linf(EPS["Linf"]), noise=keyed(100), steps=20)
    sizes = [len(points) for points in model.asked]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == int(attempt.forwards.sum())
    assert sizes[-1] == int((~attempt.claimed).sum())


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_that_are_not_finite_are_told_and_break_nothing(norm, loss):
    class Root(nn.Module):
        """Right everywhere; for a second feature below 0.5, the slope in the first one is 0 times infinity."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ill = (torch.where(x[:, 1] < 0.5, 0.0, 1.0) * x[:, 0]).sqrt()
            return torch.stack([5 + x[:, 1], 0.1 * ill, x[:, 2] - 1, x[:, 2] - 2], dim=1)

    x = torch.tensor([[0.5, 0.1, 0.5], [0.5, 0.9, 0.5]])
    budget = threat(norm, 0.05, features=3)
    attempt = apgd(Root(), x, torch.zeros(2, dtype=torch.int64), budget, noise=keyed(2), loss=loss, steps=5)
    assert attempt.nonfinite.tolist() == [True, False]
    assert not attempt.claimed.any()
    assert budget.contains(x, attempt.inputs).all()


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_of_any_shape_stay_in_the_threat_model(correct, norm, dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(dtype)
    x, y = correct[0][:30].to(dtype).reshape(-1, 4, 16), correct[1][:30]
    budget = threat(norm, EPS[norm], features=64)
    attempt = apgd(model, x, y, budget, noise=keyed(30), steps=6)
    assert attempt.inputs.dtype == dtype
    assert budget.contains(x, attempt.inputs).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_L1_runs_take_their_steps_in_three_balls(hardened, correct, steps):
    x, y = correct[0][:3], correct[1][:3]
    attempt = apgd(hardened, x, y, threat("L1", 1e-3, features=64), noise=keyed(3), steps=steps)
    assert (attempt.forwards == steps + 3).all()


def test_unknown_losses_and_too_few_classes_are_refused():
    model, x, y = nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    with pytest.raises(UserError, match="unknown loss 'targeted'"):
        apgd(model, x, y, Linf(0.1), noise=keyed(2), loss="targeted")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs 4 classes or more"):
        apgd(model, x, y, Linf(0.1), noise=keyed(2), loss="targeted-dlr")
