"""StelLA: gradients of the canonical metric, steps along the tangent space, and polar retractions, against dense formulas."""

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import LowRankOptimizer, StelLA, adapt, linalg
from robust_lowrank.layers import LowRankLinear
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.stella import riemannian, tangent_part

F64 = torch.float64
OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.05}),
    "adamw": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
}
each_optimizer = pytest.mark.parametrize(("optimizer", "options"), OPTIMIZERS.values(), ids=OPTIMIZERS)


def orthonormal(n: int, r: int) -> Tensor:
    return linalg.orth(torch.randn(n, r, dtype=F64))


def tangent_vector(basis: Tensor) -> Tensor:
    """Return U A + U_perp B with a skew A, as all tangent vectors are."""
    n, r = basis.shape
    a, b = torch.randn(r, r, dtype=F64), torch.randn(n, r, dtype=F64)
    return basis @ (a - a.T) + b - basis @ (basis.T @ b)


@pytest.mark.parametrize(("n", "r"), [(9, 3), (5, 5)])
def test_the_gradient_is_that_of_the_canonical_metric(n: int, r: int) -> None:
    """It is tangent, and its product <D, (I - U U^T / 2) X> with any tangent vector is that of the Euclidean gradient."""
    u, g = orthonormal(n, r), torch.randn(n, r, dtype=F64)
    x = riemannian(u, g)
    assert (u.T @ x + x.T @ u).abs().max() < 1e-12
    metric = torch.eye(n, dtype=F64) - u @ u.T / 2
    for _ in range(5):
        d = tangent_vector(u)
        assert float((d * (metric @ x)).sum()) == pytest.approx(float((d * g).sum()), abs=1e-10)


@pytest.mark.parametrize(("n", "r"), [(9, 3), (5, 5)])
def test_the_tangent_part_is_the_orthogonal_projection(n: int, r: int) -> None:
    u, x = orthonormal(n, r), torch.randn(n, r, dtype=F64)
    part = tangent_part(u, x)
    assert (u.T @ part + part.T @ u).abs().max() < 1e-12
    assert torch.dist(tangent_part(u, part), part) < 1e-12
    for _ in range(5):
        assert abs(float((tangent_vector(u) * (x - part)).sum())) < 1e-10


def nearest_orthonormal(x: Tensor) -> Tensor:
    """Return X (X^T X)^{-1/2}."""
    values, vectors = torch.linalg.eigh(x.T @ x)
    return x @ (vectors / values.sqrt()) @ vectors.T


@each_optimizer
def test_steps_are_those_of_the_formulas(optimizer: type[torch.optim.Optimizer], options: dict) -> None:
    """The optimizer sees U, S and V as three dense parameters with the Riemannian gradients; no decay reaches U and V."""
    n, m, r = 9, 7, 3
    factors = Factors(torch.randn(r, r, dtype=F64), (orthonormal(n, r), orthonormal(m, r)))
    layer, target = LowRankLinear(factors), torch.randn(n, m, dtype=F64)
    layer.method = StelLA()
    opt = LowRankOptimizer(layer, optimizer, **options)
    s, u, v = (nn.Parameter(part.clone()) for part in (factors.core, *factors.bases))
    theirs = optimizer([{"params": [s]}, {"params": [u, v], "weight_decay": 0.0}], **options)
    probe = torch.eye(m, dtype=F64)
    for _ in range(10):
        opt.zero_grad()
        (0.5 * (layer(probe).T - target).square().sum()).backward()
        opt.step()
        with torch.no_grad():
            g = u @ s @ v.T - target
            g_u, g_v = g @ v @ s.T, g.T @ u @ s
            s.grad, u.grad, v.grad = u.T @ g @ v, g_u - u @ g_u.T @ u, g_v - v @ g_v.T @ v
            before = [u.clone(), v.clone()]
            theirs.step()
            for basis, old in zip((u, v), before, strict=True):
                x = basis - old
                basis.copy_(nearest_orthonormal(old + x - old @ (old.T @ x + x.T @ old) / 2))
        for ours, dense in ((layer.S, s), (layer.U, u), (layer.V, v)):
            assert torch.dist(ours, dense) < 1e-9
    assert torch.dist(layer.U, factors.bases[0]) > 1e-2


def test_a_small_step_descends_along_the_riemannian_gradient() -> None:
    """What is handed to the optimizer is the gradient of the loss in U, S and V, for any direction of the tangent space."""
    factors = Factors(torch.randn(3, 3, dtype=F64), (orthonormal(9, 3), orthonormal(7, 3)))
    u, v = factors.bases
    g = torch.randn(9, 7, dtype=F64)
    found = StelLA().directions(factors, Factors(u.T @ g @ v, (g @ v, g.T @ u)))

    def loss(step: float) -> float:
        moved = StelLA().retract(factors, Factors(-step * found.core, tuple(-step * d for d in found.bases)))
        return float((g * (moved.bases[0] @ moved.core @ moved.bases[1].T)).sum())

    halves = [torch.eye(len(basis), dtype=F64) - basis @ basis.T / 2 for basis in (u, v)]
    squares = [(d * (half @ d)).sum() for d, half in zip(found.bases, halves, strict=True)]
    expected = -float(found.core.square().sum() + sum(squares))
    assert (loss(1e-5) - loss(-1e-5)) / 2e-5 == pytest.approx(expected, rel=1e-6)


@each_optimizer
@pytest.mark.parametrize("step", ["exact", "amortised"])
def test_T1_bases_stay_orthonormal(optimizer: type[torch.optim.Optimizer], options: dict, step, precision) -> None:
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6)).to(precision.dtype)
    x = torch.randn(16, 2, 4, 4, dtype=precision.dtype)
    before = net(x)
    adapt(net, method="stella", rank=4, alpha=8.0)
    assert torch.allclose(net(x), before)
    y = torch.randint(0, 6, (16,))
    opt = LowRankOptimizer(net, optimizer, step=step, **options)
    losses = []
    for _ in range(60):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    for name in ("0", "3"):
        update = net.get_submodule(name).update
        for basis in update.bases():
            defect = torch.dist(basis.T @ basis, torch.eye(basis.shape[1], dtype=precision.dtype))
            assert defect < max(precision.tight, 1e-10), name
        assert update.core.detach().norm() > 1e-3
