"""COND, the differentiable stand-in for the condition number: value, gradient, and training by it."""

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, RGD, LowRankOptimizer, Penalty, UserError, compress, linalg
from robust_lowrank.methods import Method
from robust_lowrank.penalties import condition_gap, condition_gap_gradient
from robust_lowrank.training import parse_config

F64 = torch.float64
SHAPES = [(5, 5), (8, 3), (3, 8), (6, 1), (1, 6)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def of_spectrum(shape: tuple[int, int], sigma: Tensor) -> Tensor:
    r = len(sigma)
    u, v = (linalg.orth(torch.randn(n, r, dtype=F64)) for n in shape)
    return u * sigma @ v.T


@each_shape
def test_cond_is_half_the_gap_between_the_largest_and_the_mean_square(shape: tuple[int, int]) -> None:
    sigma = torch.rand(min(shape), dtype=F64).sort(descending=True).values + 0.1
    expected = (sigma[0].square() - sigma.square().mean()) / 2
    assert float(condition_gap(of_spectrum(shape, sigma))) == pytest.approx(float(expected), abs=1e-12)
    assert abs(float(condition_gap(of_spectrum(shape, torch.full_like(sigma, 3.0))))) < 1e-12, "zero where all are equal"


@each_shape
@pytest.mark.parametrize("rank", ["full", "one"])
def test_the_gradient_is_that_of_the_formula(shape: tuple[int, int], rank: str, precision) -> None:
    n, m = shape
    a = torch.randn(n, m, dtype=F64) if rank == "full" else torch.randn(n, 1, dtype=F64) @ torch.randn(1, m, dtype=F64)
    leaf = a.clone().requires_grad_()
    formula = torch.linalg.matrix_norm(leaf, 2).square() / 2 - leaf.square().sum() / (2 * min(n, m))
    (expected,) = torch.autograd.grad(formula, leaf)
    assert torch.dist(condition_gap_gradient(a.to(precision.dtype)).double(), expected) < precision.loose
    assert float((a * condition_gap_gradient(a)).sum()) == pytest.approx(2 * float(condition_gap(a)), abs=1e-10)


def test_a_matrix_of_zero_stays_zero() -> None:
    zero = torch.zeros(4, 3, dtype=F64)
    assert float(condition_gap(zero)) == 0
    assert torch.equal(condition_gap_gradient(zero), zero)


def test_descent_makes_the_singular_values_equal() -> None:
    a = of_spectrum((7, 5), torch.tensor([4.0, 2.0, 1.0, 0.5, 0.1], dtype=F64))
    first = a.clone()
    for _ in range(400):
        a = a - 0.05 * condition_gap_gradient(a)
    assert float(torch.linalg.cond(a)) < 1.5 < float(torch.linalg.cond(first))
    assert float(condition_gap(a)) < 0.01 * float(condition_gap(first))


def test_a_kernel_counts_as_the_matrix_of_its_filters() -> None:
    kernel, penalty = torch.randn(4, 3, 2, 2, dtype=F64), Penalty(form="COND")
    assert penalty.value(kernel) == condition_gap(kernel.flatten(1))
    assert torch.equal(penalty.gradient(kernel), condition_gap_gradient(kernel.flatten(1)).reshape(kernel.shape))


@pytest.mark.parametrize("method", [RGD(), DLRT()], ids=["rgd", "dlrt"])
def test_the_optimizer_lowers_the_condition_number_by_it(method: Method) -> None:
    x, y = torch.rand(32, 12, dtype=F64), torch.randint(0, 3, (32,))
    conds = []
    for weight in (0.0, 0.3):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3)).double()
        compress(net, method=method, rank=4, exclude=["2"])
        opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, penalties=[Penalty(form="COND", weight=weight)])

        def closure(net: nn.Module = net, opt: LowRankOptimizer = opt) -> Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        for _ in range(300):
            opt.step(closure)
        sigma = net[0].singular_values()
        conds.append(float(sigma[0] / sigma[-1]))
    assert conds[1] < 1.3 < 2.0 < conds[0]


def test_a_configuration_names_it() -> None:
    penalty = {"form": "COND", "weight": 0.1, "on": "weights", "milestones": [2], "decay": [0.5]}
    config = parse_config({"method": {"name": "geolora", "penalties": [penalty]}}, source="here")
    (made,) = (each.to_penalty(steps_per_epoch=10) for each in config.method.penalties)
    assert made == Penalty(form="COND", weight=0.1, on="weights", milestones=(20,), decay=(0.5,))
    with pytest.raises(UserError, match="COND"):
        Penalty(form="COMD")  # pyright: ignore[reportArgumentType]
