import copy

import pytest
import torch
from torch import nn

from robust_lowrank.evaluation import APGD, FGSM, PGD, Suite, evaluate
from robust_lowrank.evaluation.attacks.fgsm import fgsm
from robust_lowrank.evaluation.attacks.pgd import pgd
from robust_lowrank.evaluation.verdict import check, margins
from robust_lowrank.threat import THREATS, KeyedNoise, Linf, threat

DUAL = {"Linf": 1, "L2": 2, "L1": torch.inf}  # the order of the norm that a linear model measures in


class Opposed(nn.Module):
    """Logits (z, -z) with z linear, and further classes far below: every loss has the same steepest direction."""

    def __init__(self, weight: torch.Tensor, bias: float, spare: int) -> None:
        super().__init__()
        self.weight, self.bias, self.spare = nn.Parameter(weight), bias, spare

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.flatten(1) @ self.weight + self.bias
        return torch.stack([z, -z, *[torch.full_like(z, -30.0)] * self.spare], dim=1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("spare", [0, 3], ids=["two classes", "five classes"])
@pytest.mark.parametrize("shape", [(12,), (3, 2, 2)], ids=["flat", "image"])
@pytest.mark.parametrize("norm", THREATS)
def test_linear_models_break_just_above_the_critical_eps_and_not_just_below(norm, shape, spare, device):
    weight = torch.randn(12, dtype=torch.float64)
    x = 0.5 + 0.02 * torch.randn(8, *shape, dtype=torch.float64)
    z = x.flatten(1) @ weight
    bias = -float(z.median())
    model = Opposed(weight, bias, spare).to(device)
    y = (z + bias < 0).long()
    critical = (z + bias).abs() / torch.linalg.vector_norm(weight, ord=DUAL[norm])
    eps = [float(value) * factor for value in critical for factor in (1 - 1e-6, 1 + 1e-6) if value > 0]
    assert max(eps) < 0.3  # then the walls of [0, 1] are out of reach
    suite = Suite(name="linear", norm=norm, eps=tuple(eps), attacks=(FGSM(), PGD(steps=20, relative_step=10.0)))
    result = evaluate(model, x.to(device), y.to(device), suite=suite, batch_size=3)
    for radius in eps:
        expected = float((critical > radius).double().mean())
        assert result.accuracy("fgsm", radius).value == expected
        assert result.accuracy("pgd-20", radius).value == expected
        assert result.accuracy("worst", radius).value == expected


@pytest.mark.parametrize("norm", THREATS)
def test_pgd_restarts_escape_where_the_first_start_fails(norm):
    class Valley(nn.Module):
        """Wrong only for a first feature beyond 0.55; up to 0.5 the slope leads away from there."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = x[:, 0] - 0.5
            wrong = torch.where(t > 0, 20 * (t - 0.05), -1 - t)
            return torch.stack([-wrong, wrong], dim=1)

    x, y = torch.full((64, 3), 0.499), torch.zeros(64, dtype=torch.int64)
    budget = threat(norm, 0.1, features=3)
    noise = KeyedNoise(0, "pgd", torch.arange(64))

    def broken(restarts: int) -> torch.Tensor:
        starts = (budget.random_start(x, noise.at(restart=r)) for r in range(restarts))
        attempt = pgd(Valley(), x, y, budget, starts=starts, steps=10, step_size=0.025)
        return check(Valley(), x, y, attempt.inputs, budget).broken

    once, often = broken(1), broken(10)
    assert 0.1 < once.double().mean() < 0.9
    assert often.all()


def test_pgd_agrees_with_torchattacks_on_a_trained_network(cnn, digits):
    torchattacks = pytest.importorskip("torchattacks")
    model = copy.deepcopy(cnn)
    x, y, eps, alpha, steps = digits.x[:96], digits.y[:96], 0.08, 0.015, 12
    path = []
    for count in range(steps + 1):
        theirs = torchattacks.PGD(model, eps=eps, alpha=alpha, steps=count, random_start=True)
        torch.manual_seed(5)
        path.append(theirs(x, y))
    torch.manual_seed(5)
    start = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)

    ours = pgd(model, x, y, Linf(eps), starts=[start], steps=steps, step_size=alpha)

    with torch.no_grad():
        margin = torch.stack([margins(model(point), y) for point in path])
    first = torch.where((margin < 0).any(dim=0), (margin < 0).int().argmax(dim=0), steps)
    chosen = torch.where((margin < 0).any(dim=0), first, margin.argmin(dim=0))
    assert 0 < int((margin < 0).any(dim=0).sum()) < len(x)
    assert len(first.unique()) > 4  # examples leave at several steps
    assert torch.equal(ours.forwards, first + 1)
    expected = torch.stack(path)[chosen, torch.arange(len(x))]
    torch.testing.assert_close(ours.inputs, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", THREATS)
def test_verdicts_do_not_depend_on_batch_or_order(cnn, digits, norm):
    model, x, y = copy.deepcopy(cnn).double(), digits.x[:40].double(), digits.y[:40]
    eps = {"Linf": 0.06, "L2": 0.5, "L1": 0.8}[norm]
    suite = Suite(name="s", norm=norm, eps=(eps,), attacks=(PGD(steps=8, restarts=3),))
    frames = [evaluate(model, x, y, suite=suite, batch_size=size, seed=4).verdicts for size in (5, 64)]
    compared = ["verdict", "adversarial_prediction", "forwards", "backwards", "flags"]
    for frame in frames[1:]:
        assert frame[compared].equals(frames[0][compared])
        assert (frame["margin"] - frames[0]["margin"]).abs().max() < 1e-9
    assert {"broken", "robust"} <= set(frames[0]["verdict"])

    budget, order = threat(norm, eps, features=64), torch.randperm(40)

    def attack(rows: torch.Tensor) -> torch.Tensor:
        starts = [budget.random_start(x[rows], KeyedNoise(4, "pgd", rows))]
        return pgd(model, x[rows], y[rows], budget, starts=starts, steps=8, step_size=budget.eps / 4).inputs

    torch.testing.assert_close(attack(order), attack(torch.arange(40))[order], rtol=0, atol=1e-12)


def test_examples_leave_the_batch_as_soon_as_they_are_broken(cnn, digits):
    sizes: list[int] = []
    model = copy.deepcopy(cnn)
    model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    x, y = digits.x[:64], digits.y[:64]
    attempt = pgd(model, x, y, Linf(0.1), starts=[x], steps=10, step_size=0.02)
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == int(attempt.forwards.sum())
    assert sizes[-1] == int((attempt.forwards == 11).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (64,), (4, 16)])
def test_T25_fgsm_and_pgd_stay_in_the_ball_and_in_the_range(digits, norm, dtype, shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).to(dtype)
    x, y = digits.x[:80].to(dtype).reshape(-1, *shape), digits.y[:80]
    budget = threat(norm, 0.15, features=64)
    starts = [budget.random_start(x, KeyedNoise(0, "pgd", torch.arange(80)))]
    for attempt in (fgsm(model, x, y, budget), pgd(model, x, y, budget, starts=starts, steps=5, step_size=0.06)):
        assert attempt.inputs.dtype == dtype
        assert budget.contains(x, attempt.inputs).all()
        assert not torch.equal(attempt.inputs, x)


def test_the_most_harmful_point_is_returned_where_nothing_breaks(mlp, digits):
    x, y = digits.x[:40], digits.y[:40]
    with torch.no_grad():
        clean = margins(mlp(x), y)
    rows = clean > 0
    attempt = pgd(mlp, x[rows], y[rows], Linf(0.002), starts=[x[rows]], steps=5, step_size=0.0005)
    with torch.no_grad():
        found = margins(mlp(attempt.inputs), y[rows])
    assert (found < clean[rows]).all()


def darkened(count: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a linear network, images of which many features are 0, as in digits, and their classes."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)).eval()
    net[1].weight.data.copy_(torch.randn(10, 64, generator=generator))
    x = 0.1 + 0.8 * torch.rand(count, 1, 8, 8, generator=generator)
    x = x * (torch.rand(x.shape, generator=generator) > 0.4)
    return net, x, net(x).argmax(1)


def robust_in_L1(net: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """Return which examples no change within ball and cube breaks: for every class the steepest features go to their walls."""
    weight, images = net[1].weight.detach(), x.flatten(1)
    held = torch.ones_like(y, dtype=torch.bool)
    for rival in range(10):
        slope = weight[rival] - weight[y]
        size, order = slope.abs().sort(dim=1, descending=True)
        room = torch.where(slope > 0, 1 - images, images).gather(1, order)
        budget = (eps - (room.cumsum(1) - room)).clamp(min=0)
        gain = (torch.minimum(room, budget) * size).sum(1)
        logits = net(x)
        held &= (y == rival) | (logits.gather(1, y[:, None])[:, 0] - logits[:, rival] - gain > 0)
    return held


@pytest.mark.slow
def test_pgd_for_L1_finds_what_can_be_found_where_many_features_cannot_move():
    net, x, y = darkened(200)
    exact = float(robust_in_L1(net, x, y, 1.5).float().mean())
    left = {}
    for attack in (PGD(steps=20), PGD(steps=100), FGSM(), APGD(steps=100)):
        result = evaluate(net, x, y, suite=Suite(name="t", norm="L1", eps=(1.5,), attacks=(attack,)))
        left[attack.label] = float(result.robust_accuracy)
        assert not [finding for finding in result.audit if finding.status == "fail"], attack.label
    assert all(exact <= value <= exact + 0.03 for value in left.values())
    assert left["pgd-100"] <= left["pgd-20"] + 0.005
