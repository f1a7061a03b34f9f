import math

import pytest
import torch

from robust_lowrank import decompositions, linalg
from robust_lowrank.decompositions import FactorisationError
from robust_lowrank.errors import TrainingError


def failing(monkeypatch: pytest.MonkeyPatch, name: str, times: int, *, by_nan: bool = False) -> list[torch.dtype]:
    """Have a function of torch.linalg fail for so many calls; return the types that it is called with."""
    real, calls = getattr(torch.linalg, name), []

    def patched(a: torch.Tensor, **options: object) -> object:
        calls.append(a.dtype)
        if len(calls) > times:
            return real(a, **options)
        if by_nan:
            return real(torch.full_like(a, math.nan), **options)
        raise torch.linalg.LinAlgError("the algorithm failed")

    monkeypatch.setattr(torch.linalg, name, patched)
    return calls


@pytest.mark.parametrize("by_nan", [False, True], ids=["error", "nan"])
def test_a_QR_that_fails_is_done_in_float64(monkeypatch: pytest.MonkeyPatch, by_nan: bool) -> None:
    a = torch.randn(7, 3)
    calls = failing(monkeypatch, "qr", 1, by_nan=by_nan)
    q, r = decompositions.qr(a)
    assert calls == [torch.float32, torch.float64]
    assert q.dtype == torch.float32 and torch.dist(q @ r, a) < 1e-5
    assert torch.dist(q.T @ q, torch.eye(3)) < 1e-5


def test_a_QR_that_always_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, "qr", 99)
    with pytest.raises(FactorisationError, match=r"the QR of a \(7, 3\) matrix overflows"):
        decompositions.qr(torch.randn(7, 3))


@pytest.mark.parametrize(
    ("name", "bad"),
    [("svd", math.nan), ("svd", math.inf), ("qr", math.nan), ("qr", math.inf), ("eigh", math.inf), ("inverse", math.nan)],
)
def test_no_decomposition_returns_what_is_not_finite(name: str, bad: float) -> None:
    a = torch.eye(4)
    a[1, 2] = a[2, 1] = bad
    with pytest.raises(TrainingError, match=r"\(4, 4\) matrix was given NaN or infinity"):
        getattr(decompositions, name)(a)


def test_a_singular_matrix_has_no_inverse() -> None:
    with pytest.raises(FactorisationError, match="singular"):
        decompositions.inverse(torch.zeros(3, 3))
    tiny = torch.eye(2) * 1e-20
    assert torch.allclose(decompositions.inverse(tiny) @ tiny, torch.eye(2))


@pytest.mark.parametrize("retraction", ["qr", "polar"])
def test_a_Gram_matrix_that_is_not_positive_leaves_the_retraction_to_the_QR(retraction: linalg.Retraction) -> None:
    columns = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64)).Q * 2
    wrong = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    expected = linalg.RETRACTIONS[retraction](columns)
    assert torch.dist(linalg._normalised(columns, wrong, retraction), expected) < 1e-12


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
class TestScales:
    """Squares of 1e-30 vanish in float32, and those of 1e30 overflow."""

    def test_the_truncation_rank_is_that_of_the_shape(self, scale: float) -> None:
        sigma = torch.tensor([4.0, 3.0, 0.02, 0.01]) * scale
        assert linalg.truncation_rank(sigma, 0.1 * float(linalg.norm(sigma))) == 2

    def test_a_basis_is_extended_by_the_same_columns(self, scale: float) -> None:
        basis, x = torch.linalg.qr(torch.randn(9, 2)).Q, torch.randn(9, 2)
        wide = linalg.extend(basis, x * scale)
        assert wide.shape == (9, 4)
        assert torch.dist(wide @ (wide.T @ x), x) < 1e-5

    @pytest.mark.parametrize("reference", ["rms", "mean", "exact"])
    def test_the_clamp_scales(self, scale: float, reference: linalg.Reference) -> None:
        sigma = torch.tensor([4.0, 3.0, 1.0])
        if scale < 1:
            with pytest.raises(FactorisationError, match="nothing to clamp them to"):
                linalg.clamp_values(sigma * scale, 0.5, reference)
        else:
            assert torch.allclose(
                linalg.clamp_values(sigma * scale, 0.5, reference) / scale, linalg.clamp_values(sigma, 0.5, reference)
            )
