import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robust_lowrank import linalg

F64 = torch.float64
TAUS = [0.0, 0.1, 0.5, 3.0]


def spectrum(values: list[float], size: int | None = None) -> torch.Tensor:
    """Return a matrix with these singular values in random position."""
    n = size or len(values)
    u = linalg.orth(torch.randn(n, len(values), dtype=F64))
    v = linalg.orth(torch.randn(n, len(values), dtype=F64))
    return u @ torch.diag(torch.tensor(values, dtype=F64)) @ v.T


def cond(a: torch.Tensor) -> float:
    sigma = torch.linalg.svdvals(a)
    return float(sigma[0] / sigma[-1])


spectra = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=8).map(lambda values: torch.tensor(sorted(values)[::-1], dtype=F64))


@pytest.mark.parametrize("tau", TAUS)
def test_T4_clamp_is_the_projection_for_a_fixed_reference(tau: float) -> None:
    s, eps = 1.3, linalg.half_width(tau)
    a = torch.randn(6, 6, dtype=F64) * 2
    projected = linalg.clamp_spectrum(a, tau, s)
    assert torch.dist(linalg.clamp_spectrum(projected, tau, s), projected) < 1e-12
    left, right = (linalg.orth(torch.randn(6, 6, dtype=F64)) for _ in range(2))
    assert torch.dist(linalg.clamp_spectrum(left @ a @ right, tau, s), left @ projected @ right) < 1e-12
    for _ in range(1000):
        u, v = (linalg.orth(torch.randn(6, 6, dtype=F64)) for _ in range(2))
        values = s * (1 - eps + 2 * eps * torch.rand(6, dtype=F64))
        assert torch.dist(projected, a) <= torch.dist(u * values @ v.T, a)


@settings(max_examples=200, deadline=None)
@given(sigma=spectra, tau=st.sampled_from(TAUS))
def test_T5_exact_reference_projects_on_the_cone(sigma: torch.Tensor, tau: float) -> None:
    exact = linalg.clamp_values(sigma, tau, "exact")
    assert exact[0] <= (1 + tau) * exact[-1] * (1 + 1e-10)
    assert torch.allclose(linalg.clamp_values(exact, tau, "exact"), exact, rtol=1e-9)
    for other in ("mean", "rms"):
        moved = linalg.clamp_values(sigma, tau, other)
        assert torch.dist(exact, sigma) <= torch.dist(moved, sigma) + 1e-9
    if tau == 0:
        assert torch.allclose(exact, sigma.mean().expand_as(sigma), rtol=1e-9)
    if sigma[0] <= (1 + tau) * sigma[-1]:
        assert torch.equal(exact, sigma)


def test_T6_mean_and_rms_shrink_the_spread_when_repeated() -> None:
    expected = {"mean": [1.5, 1.35, 1.305, 1.29], "rms": [1.5, 1.37477, 1.32680, 1.30910, 1.30267]}
    for reference, conds in expected.items():
        a = spectrum([10.0, 1.0, 1.0, 1.0])
        for value in conds:
            a = linalg.clamp_spectrum(a, 0.5, reference)
            assert cond(a) == pytest.approx(value, abs=5e-3 if reference == "mean" else 5e-6)
    moved = linalg.clamp_values(torch.tensor([1.5, 1, 1, 1, 1], dtype=F64), 0.5, "mean")
    assert moved[0] == pytest.approx(1.32)
    moved = linalg.clamp_values(torch.tensor([1.5, 1, 1, 1, 1], dtype=F64), 0.5, "rms")
    assert moved[0] == pytest.approx(1.34164, abs=5e-6)


@pytest.mark.parametrize("reference", ["exact", "rms", "mean", 1.05])
@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e25])
@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5])
def test_well_conditioned_matrices_are_clamped_as_their_svd_is(tau: float, scale: float, reference: object, precision) -> None:
    reference = reference * scale if isinstance(reference, float) else reference
    for shape in ((7, 7), (9, 5), (5, 9)):
        u, _, vh = torch.linalg.svd(torch.randn(shape, dtype=F64), full_matrices=False)
        sigma = scale * (1 + 0.6 * torch.rand(min(shape), dtype=F64)).sort(descending=True).values
        a = ((u * sigma) @ vh).to(precision.dtype)
        if scale == 1e-25:
            with pytest.raises(linalg.FactorisationError, match="reference value"):
                linalg.clamp_spectrum(a, tau, reference)
            continue
        expected = (u * linalg.clamp_values(sigma, tau, reference)) @ vh
        found = linalg.clamp_spectrum(a, tau, reference)
        assert found.dtype == precision.dtype
        torch.testing.assert_close(found.double() / scale, expected / scale, rtol=0, atol=precision.tight)
        if reference == "exact":
            assert cond(found.double()) <= (1 + tau) * (1 + precision.tight)


def test_a_matrix_within_the_bound_is_left_alone() -> None:
    a = spectrum([1.05, 1.0, 0.99])
    assert linalg.clamp_spectrum(a, 0.1, "exact") is a


def test_clamp_leaves_the_matrix_alone_when_tau_is_infinite() -> None:
    a = torch.randn(4, 4)
    assert linalg.clamp_spectrum(a, math.inf) is a


def test_clamp_refuses_a_zero_core() -> None:
    with pytest.raises(linalg.FactorisationError, match="reference value"):
        linalg.clamp_spectrum(torch.zeros(3, 3), 0.1)


@settings(max_examples=100, deadline=None)
@given(sigma=spectra, tau=st.floats(0, 0.9))
def test_T12_truncation_rank_is_minimal(sigma: torch.Tensor, tau: float) -> None:
    theta = tau * sigma.norm()
    rank = linalg.truncation_rank(sigma, theta)
    tail = lambda j: float(sigma[j:].norm())  # noqa: E731
    assert tail(rank) <= theta * (1 + 1e-12)
    if rank > 0:
        assert tail(rank - 1) > theta * (1 - 1e-12)


def test_truncation_rank_respects_its_bounds() -> None:
    sigma = torch.tensor([3.0, 2.0, 1.0])
    assert linalg.truncation_rank(sigma, 100.0, minimum=2) == 2
    assert linalg.truncation_rank(sigma, 0.0, maximum=1) == 1
    assert linalg.truncation_rank(sigma, 0.0, minimum=5) == 3


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 12), r=st.integers(1, 12), seed=st.integers(0, 99))
def test_retractions_are_orthonormal_and_fix_orthonormal_matrices(n: int, r: int, seed: int) -> None:
    torch.manual_seed(seed)
    r = min(n, r)
    eye = torch.eye(r, dtype=F64)
    signs = torch.where(torch.arange(r) % 2 == 0, 1.0, -1.0)  # Householder's Q alone is a matrix that any QR leaves as it is
    u = linalg.orth(torch.randn(n, r, dtype=F64)) * signs
    for retraction in linalg.RETRACTIONS.values():
        q = retraction(torch.randn(n, r, dtype=F64))
        assert torch.dist(q.T @ q, eye) < 1e-12
        assert torch.dist(retraction(u), u) < 1e-12


PRECISE = {F64: 1e-12, torch.float32: 1e-6}
each_precision = pytest.mark.parametrize("dtype", PRECISE, ids=["float64", "float32"])


@each_precision
@pytest.mark.parametrize("size", [0.0, 1e-3, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("retraction", linalg.RETRACTIONS)
def test_a_cheap_retraction_is_that_of_householder(dtype: torch.dtype, size: float, retraction: linalg.Retraction) -> None:
    """Short increments take a Cholesky factor or an inverse root of a Gram matrix, long ones the QR itself."""
    n, r = 40, 8
    basis = linalg.orth(torch.randn(n, r, dtype=dtype))
    increment = linalg.project_out(basis, torch.randn(n, r, dtype=dtype))
    increment = size * increment / torch.linalg.matrix_norm(increment, 2)
    found, expected = linalg.retract(basis + increment, retraction), linalg.RETRACTIONS[retraction](basis + increment)
    assert float((found - expected).abs().max()) < PRECISE[dtype]
    assert float((found.T @ found - torch.eye(r, dtype=dtype)).abs().max()) < 3 * PRECISE[dtype]


@each_precision
@pytest.mark.parametrize(
    ("n", "r", "width", "inside"),
    [(40, 8, 8, 0.0), (40, 8, 8, 1.0), (40, 8, 3, 30.0), (12, 8, 8, 1.0), (8, 8, 4, 1.0), (9, 4, 5, 1.0)],
)
def test_extended_bases_span_what_those_of_householder_do(dtype: torch.dtype, n: int, r: int, width: int, inside: float) -> None:
    basis = linalg.orth(torch.randn(n, r, dtype=dtype))
    x = torch.randn(n, width, dtype=dtype) + inside * basis @ torch.randn(r, width, dtype=dtype)
    found, expected = linalg.extend(basis, x), linalg.orth(torch.cat([basis, x], 1).double())  # which rounds little of it
    assert found.shape == expected.shape == (n, min(n, r + width))
    assert float((found.double() @ found.double().T - expected @ expected.T).abs().max()) < PRECISE[dtype]
    assert float((found.T @ found - torch.eye(found.shape[1], dtype=dtype)).abs().max()) < PRECISE[dtype]
    assert float((found[:, :r] - basis).abs().max()) < PRECISE[dtype]


@each_precision
@pytest.mark.parametrize("outside", [1e-2, 1e-4, 1e-5, 1e-6])
def test_extended_bases_are_orthonormal_however_little_is_outside(dtype: torch.dtype, outside: float) -> None:
    basis = linalg.orth(torch.randn(40, 8, dtype=dtype))
    x = basis @ torch.randn(8, 8, dtype=dtype) + outside * torch.randn(40, 8, dtype=dtype)
    found = linalg.extend(basis, x)
    columns = found.shape[1]
    assert float((found.T @ found - torch.eye(columns, dtype=dtype)).abs().max()) < 3 * PRECISE[dtype]
    left_out = linalg.LEAST_PART * torch.finfo(dtype).eps * float(x.norm())
    assert columns == 16 or outside < left_out
    assert float(linalg.project_out(found, x).abs().max()) < (20 * PRECISE[dtype] if columns == 16 else left_out)


@each_precision
@pytest.mark.parametrize("rank", [0, 2])
def test_what_lies_in_a_basis_adds_no_column_to_it(dtype: torch.dtype, rank: int) -> None:
    """Of columns that lie in the basis but for rounding, all but `rank`, nothing comes: it would be what rounding makes of it."""
    basis = linalg.orth(torch.randn(30, 5, dtype=dtype))
    x = basis @ torch.randn(5, 5, dtype=dtype)
    x[:, :rank] += torch.randn(30, rank, dtype=dtype)
    for each in (x, x.flip(1)):
        found = linalg.extend(basis, each)
        assert found.shape == (30, 5 + rank)
        assert float((found.T @ found - torch.eye(5 + rank, dtype=dtype)).abs().max()) < PRECISE[dtype]
        assert float(linalg.project_out(found, each).abs().max()) < 20 * PRECISE[dtype]


def test_polar_is_the_nearest_orthonormal_matrix() -> None:
    a = torch.randn(7, 3, dtype=F64)
    best = torch.dist(linalg.polar(a), a)
    for _ in range(200):
        assert best <= torch.dist(linalg.orth(torch.randn(7, 3, dtype=F64)), a)


def test_orth_is_orthonormal_for_dependent_columns() -> None:
    u = linalg.orth(torch.randn(6, 2, dtype=F64))
    q = linalg.orth(torch.cat([u, torch.zeros(6, 2, dtype=F64)], 1))
    assert torch.dist(q.T @ q, torch.eye(4, dtype=F64)) < 1e-12
    assert torch.dist(q[:, :2] @ (q[:, :2].T @ u), u) < 1e-12


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(*[st.integers(2, 6)] * 4), seed=st.integers(0, 99))
def test_T23_hosvd_error_is_bounded_by_its_tails(shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    tensor = torch.randn(shape, dtype=F64)
    ranks = [max(1, shape[0] // 2), max(1, shape[1] - 1)]
    core, bases = linalg.hosvd(tensor, ranks)
    error = torch.dist(linalg.multi_product(core, bases), tensor)
    tails = [torch.linalg.svdvals(linalg.unfold(tensor, mode))[rank:].norm() for mode, rank in enumerate(ranks)]
    assert error <= torch.stack(tails).norm() + 1e-10


def test_mode_product_agrees_with_einsum() -> None:
    tensor, matrix = torch.randn(3, 4, 5, dtype=F64), torch.randn(2, 4, dtype=F64)
    assert torch.dist(linalg.mode_product(tensor, matrix, 1), torch.einsum("ajb,ij->aib", tensor, matrix)) < 1e-12
    assert linalg.unfold(tensor, 1).shape == (4, 15)


class TestSvdFallback:
    """LAPACK that fails must not end a training run."""

    @staticmethod
    def failing(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        real, calls = torch.linalg.svd, []

        def svd(a: torch.Tensor, full_matrices: bool = True) -> object:
            calls.append(a.dtype)
            if len(calls) <= times:
                raise torch.linalg.LinAlgError("the algorithm failed to converge")
            return real(a, full_matrices=full_matrices)

        monkeypatch.setattr(torch.linalg, "svd", svd)

    @pytest.mark.parametrize("times", [0, 1, 2])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_falls_back(self, monkeypatch: pytest.MonkeyPatch, times: int, dtype: torch.dtype) -> None:
        a = torch.randn(5, 3, dtype=dtype)
        self.failing(monkeypatch, times)
        u, sigma, vh = linalg.svd(a)
        assert sigma.dtype == dtype
        assert torch.dist(u * sigma @ vh, a) < 1e-5 * a.norm()

    def test_says_what_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(linalg.FactorisationError, match="NaN"):
            linalg.svd(torch.full((3, 2), math.nan))
        self.failing(monkeypatch, 99)
        with pytest.raises(linalg.FactorisationError, match="did not converge"):
            linalg.svd(torch.randn(3, 2))

    def test_short_types_are_widened(self) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linalg.svd(torch.randn(4, 4, dtype=torch.bfloat16)).sigma.dtype == torch.float32
