import copy
import math

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.pgd import pgd
from robust_lowrank.evaluation.attacks.square import blocks, square
from robust_lowrank.evaluation.attacks.square_moves import Grid
from robust_lowrank.evaluation.attacks.view import image_view
from robust_lowrank.evaluation.verdict import check, margins
from robust_lowrank.threat import L2, THREATS, KeyedNoise, Linf, Threat, threat

EPS = {"Linf": 0.08, "L2": 0.6, "L1": 3.0}
DUAL = {"Linf": 1, "L2": 2, "L1": math.inf}  # the order of the norm that a linear model measures in
SHAPES = [(3, 12, 12), (1, 8, 8), (64,), (7,), (1,), (4, 16), (2, 3, 9), (5, 1, 1), (2, 3, 2, 2), (1, 28, 28)]


def keyed(count: int) -> KeyedNoise:
    return KeyedNoise(0, "square", torch.arange(count))


class RowByRow(nn.Module):
    """A model that evaluates each example by itself, so that its logits cannot depend on the batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.model(row[None]) for row in x])


class Slanted(nn.Module):
    """Two classes whose margin is linear in the input: `x w + bias`."""

    def __init__(self, weight: torch.Tensor, bias: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = (x.flatten(1) @ self.weight + self.bias) / 2
        return torch.stack([z, -z], dim=1)


def right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (margins(model(x), y) > 0).nonzero().squeeze(1)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", THREATS)
def test_points_stay_in_the_ball_and_in_the_range_for_any_shape(norm, shape, dtype, classes):
    torch.manual_seed(0)
    features = math.prod(shape)
    budget = threat(norm, min(EPS[norm], 0.9), features=features)
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, classes)).to(dtype)
    x = torch.rand(6, *shape, dtype=dtype)
    x[0], x[1] = 0, 1
    y = model(x).argmax(dim=1)
    attempt = square(model, x, y, budget, noise=keyed(6), queries=70)
    assert attempt.inputs.dtype == dtype
    assert attempt.inputs.shape == x.shape
    assert budget.contains(x, attempt.inputs).all()
    assert not torch.equal(attempt.inputs, x)
    assert torch.equal(check(model, x, y, attempt.inputs, budget).broken, attempt.claimed)


@pytest.mark.parametrize("norm", THREATS)
def test_points_stay_in_the_ball_over_many_moves(norm):
    torch.manual_seed(0)
    model, x = Slanted(torch.randn(64), 1e3), torch.rand(20, 1, 8, 8)
    budget = threat(norm, EPS[norm], features=64)
    attempt = square(model, x, torch.zeros(20, dtype=torch.int64), budget, noise=keyed(20), queries=1500)
    assert budget.contains(x, attempt.inputs).all()
    assert budget.distance(x, attempt.inputs).mean() > 0.99 * budget.eps


@pytest.mark.parametrize("shape", [(1, 8, 8), (64,), (2, 4, 8)], ids=str)
def test_margin_of_a_linear_model_comes_near_the_least_one(shape, device):
    torch.manual_seed(0)
    weight = torch.randn(64, device=device)
    model, x = Slanted(weight, 1e3), torch.rand(20, *shape, device=device)
    y = torch.zeros(20, dtype=torch.int64, device=device)
    budget = Linf(0.1)
    noise = KeyedNoise(0, "square", torch.arange(20, device=device))
    attempt = square(model, x, y, budget, noise=noise, queries=1500)
    with torch.no_grad():
        least = margins(model(budget.project(x, (weight < 0).to(x).expand(20, -1).reshape(x.shape))), y)
        clean, found = margins(model(x), y), margins(model(attempt.inputs), y)
    assert ((clean - found) / (clean - least)).min() > 0.75


@pytest.mark.parametrize("norm", THREATS)
def test_linear_models_break_well_above_the_critical_eps_and_never_below(norm):
    torch.manual_seed(0)
    weight = torch.randn(64, dtype=torch.float64)
    x = 0.5 + 0.01 * torch.randn(60, 1, 8, 8, dtype=torch.float64)  # the walls of [0, 1] are out of reach
    budget = threat(norm, {"Linf": 0.05, "L2": 0.4, "L1": 0.45}[norm], features=64)
    reach = budget.eps * float(torch.linalg.vector_norm(weight, ord=DUAL[norm]))
    z = x.flatten(1) @ weight
    x += ((torch.linspace(0.1, 1.4, 60) * reach - z) / weight.square().sum())[:, None, None, None] * weight.reshape(8, 8)
    model, y = Slanted(weight, 0.0), torch.zeros(60, dtype=torch.int64)
    critical = (x.flatten(1) @ weight) / reach * budget.eps
    broken = check(model, x, y, square(model, x, y, budget, noise=keyed(60), queries=1000).inputs, budget).broken
    assert not broken[critical > budget.eps].any()
    assert broken[critical < 0.7 * budget.eps].double().mean() > 0.9


@pytest.mark.parametrize("norm", THREATS)
def test_an_example_has_the_same_fate_in_any_batch_and_order(mlp, digits, norm):
    model = RowByRow(copy.deepcopy(mlp).double())
    x, y, budget = digits.x[:12].double(), digits.y[:12], threat(norm, EPS[norm], features=64)

    def attack(rows: torch.Tensor):
        return square(model, x[rows], y[rows], budget, noise=KeyedNoise(3, "square", rows), queries=60, restarts=2)

    every = attack(torch.arange(12))
    assert 0 < int(every.claimed.sum()) < 12
    for batches in (torch.arange(12).split(1), torch.arange(12).split(3), [torch.randperm(12)]):
        for rows in batches:
            for ours, theirs in zip(attack(rows)[:5], every[:5], strict=True):
                assert torch.equal(ours, theirs[rows])


@pytest.mark.parametrize("norm", THREATS)
def test_more_queries_and_restarts_never_raise_the_margin(mlp, digits, norm):
    rows = right(mlp, digits.x[:60], digits.y[:60])
    x, y, budget = digits.x[rows], digits.y[rows], threat(norm, EPS[norm] / 3, features=64)
    last = torch.full(rows.shape, torch.inf)
    for queries, restarts in ((1, 1), (2, 1), (30, 1), (200, 1), (200, 2)):
        attempt = square(mlp, x, y, budget, noise=keyed(len(rows)), queries=queries, restarts=restarts)
        with torch.no_grad():
            margin = margins(mlp(attempt.inputs), y)
        held = ~attempt.claimed
        assert held.any()
        assert (margin <= last + 1e-5)[held].all()
        assert (margin[held] < last[held]).any()
        assert (attempt.forwards[held] == queries * restarts).all()
        last = margin


def test_every_query_is_counted_and_broken_examples_leave_the_batch(cnn, digits):
    model, sizes = copy.deepcopy(cnn), []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    attempt = square(model, digits.x[:40], digits.y[:40], Linf(0.1), noise=keyed(40), queries=150)
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == int(attempt.forwards.sum())
    assert sizes[-1] == int((attempt.forwards == 150).sum()) > 0
    assert not attempt.backwards.any()


def test_no_evaluation_follows_when_all_examples_are_broken():
    calls = []

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return torch.tensor([[0.0, 1.0]]).expand(len(x), -1)

    attempt = square(Wrong(), torch.rand(5, 4), torch.zeros(5, dtype=torch.int64), L2(0.1), noise=keyed(5), restarts=3)
    assert attempt.claimed.all()
    assert calls == [5]


@pytest.mark.parametrize("norm", THREATS)
def test_a_model_without_useful_gradients_is_broken(mlp, digits, norm):
    class Rounded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return mlp((x * 4).round() / 4)

    model = Rounded()
    rows = right(model, digits.x[:60], digits.y[:60])
    x, y, budget = digits.x[rows], digits.y[rows], threat(norm, 2 * EPS[norm], features=64)
    blind = pgd(model, x, y, budget, starts=[x], steps=20, step_size=budget.eps / 4)
    assert not blind.claimed.any()
    assert square(model, x, y, budget, noise=keyed(len(rows)), queries=300).claimed.double().mean() > 0.5


@pytest.mark.parametrize("norm", THREATS)
def test_logits_that_are_not_finite_are_noticed_and_never_a_success(norm):
    class Fragile(nn.Module):
        """The margin falls as the mean rises, until it is not finite; wrong nowhere."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean(dim=1)
            z = torch.where(mean > 0.505, torch.nan, 1 - mean)
            return torch.stack([z, -1 - 0 * z], dim=1)

    class Lost(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_full((len(x), 2), torch.nan)

    x, y, budget = torch.full((10, 16), 0.5), torch.zeros(10, dtype=torch.int64), threat(norm, 0.2, features=16)
    fragile = square(Fragile(), x, y, budget, noise=keyed(10), queries=100)
    assert fragile.nonfinite.all()
    assert not fragile.claimed.any()
    assert Fragile()(fragile.inputs).isfinite().all()
    lost = square(Lost(), x, y, budget, noise=keyed(10), queries=5)
    assert lost.nonfinite.all()
    assert not lost.claimed.any()
    assert torch.equal(lost.inputs, x)
    assert (lost.forwards == 5).all()


class FullReach(SquareAttack):
    """Upstream with windows that reach the last row and column, which its own never do unless they span the image."""

    def random_int(self, low=0, high=1, shape=(1,)):
        return super().random_int(low, high + 1, shape)


@pytest.mark.slow
@pytest.mark.parametrize("norm", THREATS)
def test_as_many_examples_are_broken_as_by_upstream(cnn, digits, norm):
    eps = {"Linf": 0.06, "L2": 0.4, "L1": 1.5}[norm]
    rows = right(cnn, digits.x, digits.y)
    x, y = digits.x[rows], digits.y[rows]
    assert len(rows) > 200
    ours = square(cnn, x, y, threat(norm, eps, features=64), noise=keyed(len(rows)), queries=1001).claimed
    upstream = FullReach(cnn, norm=norm, eps=eps, n_queries=1000, resc_schedule=False, seed=0)
    with torch.random.fork_rng():
        theirs = cnn(upstream.perturb(x, y)).argmax(dim=1) != y
    assert 0.1 < theirs.double().mean() < 0.9
    assert abs(ours.double().mean() - theirs.double().mean()) <= 0.03


def test_blocks_follow_the_schedule_of_autoattack():
    upstream = SquareAttack(nn.Identity(), n_queries=9000, resc_schedule=False)
    parts = [part for count, part in blocks(9000, 0.8) for _ in range(count)]
    assert parts == [upstream.p_selection(move) for move in range(9000)]
    assert list(blocks(0, 0.8)) == []


@pytest.mark.parametrize(
    ("shape", "grid", "side", "window"),
    [
        ((3, 32, 32), (3, 32, 32), 7, (7, 7)),
        ((784,), (1, 28, 28), 40, (28, 28)),
        ((7,), (1, 1, 7), 2, (1, 4)),
        ((9, 2), (1, 9, 2), 4, (8, 2)),
        ((2, 3, 2, 2), (1, 4, 6), 3, (3, 3)),
    ],
)
def test_any_shape_is_seen_as_an_image(shape, grid, side, window):
    assert Grid(*image_view(shape)) == grid
    assert Grid(*image_view(shape)).window(side) == window


def test_wrong_use_is_refused():
    class Odd(Linf):
        norm = "L7"

    x, y = torch.rand(2, 4), torch.zeros(2, dtype=torch.int64)
    budget: Threat = Odd(0.1)
    with pytest.raises(UserError, match="L7"):
        square(nn.Identity(), x, y, budget, noise=keyed(2))
    with pytest.raises(UserError, match="queries=0"):
        square(nn.Identity(), x, y, Linf(0.1), noise=keyed(2), queries=0)
