"""Bases that are not formed give what those do that are."""

import pytest
import torch
from torch import Tensor

from robust_lowrank import RGD, GeoLoRA, LowRankOptimizer, linalg
from robust_lowrank.layers import LowRankLinear
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import tangent, unformed
from robust_lowrank.methods.bases import augment, decompose, truncate

F64 = torch.float64
N, M, RANK = 40, 30, 6
PRECISE = {F64: 1e-12, torch.float32: 1e-5}
each_precision = pytest.mark.parametrize("dtype", PRECISE, ids=["float64", "float32"])


def drawn(dtype: torch.dtype, *, gradient_rank: int = N, spread: float = 0.0) -> tuple[Factors, Factors]:
    u, v = (linalg.orth(torch.randn(size, RANK, dtype=dtype)) for size in (N, M))
    g = torch.randn(N, gradient_rank, dtype=dtype) @ torch.randn(gradient_rank, M, dtype=dtype)
    g = g * torch.logspace(0, -spread, M, dtype=dtype)
    factors = Factors(torch.linspace(2, 1, RANK, dtype=dtype).diag(), (u, v))
    return factors, Factors(u.T @ g @ v, (g @ v, g.T @ u))


def formed(factors: Factors, x: Factors, lr: float, rank: int) -> Tensor:
    wide = augment(factors, x)
    wide = wide._replace(core=wide.core - lr * tangent.core_between(x, factors, wide.bases))
    core, (u, v) = truncate(wide, decompose(wide), (rank, rank))
    return u @ core @ v.T


@each_precision
@pytest.mark.parametrize("spread", [0.0, 6.0])
@pytest.mark.parametrize("lr", [1e-3, 1e-1])
@pytest.mark.parametrize("rank", [RANK - 2, RANK])
def test_a_truncated_step_is_that_of_formed_bases(dtype: torch.dtype, rank: int, lr: float, spread: float) -> None:
    """Also where the gradient has little in many directions, as those of networks have."""
    factors, x = drawn(dtype, spread=spread)
    x = tangent.scale(x, 1 / float(x.bases[0].norm()))
    extended = unformed.triangles(x)
    assert unformed.extendable(factors) and extended is not None
    padded, core = unformed.core_between(factors, x, extended)
    found = unformed.truncate(factors, x, extended, linalg.svd(padded - lr * core), rank)
    assert found is not None
    u, v = found.bases
    assert float((u @ found.core @ v.T - formed(factors, x, lr, rank)).abs().max()) < PRECISE[dtype]
    for basis in (u, v):
        assert float(linalg.gram_defect(basis)) < PRECISE[dtype]


@each_precision
def test_columns_that_rounding_decides_on_are_not_taken(dtype: torch.dtype) -> None:
    factors, x = drawn(dtype, gradient_rank=2)
    extended = unformed.triangles(x)
    assert extended is not None
    last = torch.eye(2 * RANK, dtype=dtype).flip(0)  # of the extended bases it keeps the columns that the direction adds
    whole = linalg.SVD(last, torch.ones(2 * RANK, dtype=dtype), last)
    assert unformed.truncate(factors, x, extended, whole, RANK) is None


@pytest.mark.parametrize("case", ["too few rows", "no gradient"])
def test_bases_are_formed_where_their_extension_has_no_triangle(case: str) -> None:
    factors, x = drawn(F64)
    if case == "no gradient":
        assert unformed.triangles(tangent.scale(x, 0.0)) is None
    else:
        assert not unformed.extendable(factors._replace(bases=(factors.bases[0][:10], factors.bases[1])))


@pytest.mark.parametrize("method", [RGD(), GeoLoRA(tol=0.1), GeoLoRA(tol=0.0, budget=8)], ids=["rgd", "tol", "budget"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_training_does_not_depend_on_whether_bases_are_formed(
    method: GeoLoRA, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, _ = drawn(F64)
    target = torch.randn(N, 5, dtype=F64) @ torch.randn(5, M, dtype=F64) / 10

    def trained() -> tuple[Tensor, tuple[int, ...]]:
        layer = LowRankLinear(start)
        layer.method = method
        opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.2, momentum=momentum)

        def closure() -> Tensor:
            opt.zero_grad()
            loss = (layer(torch.eye(M, dtype=F64)).T - target).square().sum() / 2
            loss.backward()
            return loss

        for _ in range(15):
            opt.step(closure)
        return layer.merged().detach(), layer.ranks()

    found, ranks = trained()
    monkeypatch.setattr(unformed, "triangles", lambda *_: None)
    expected, their_ranks = trained()
    assert ranks == their_ranks
    assert float((found - expected).abs().max()) < 1e-10
