"""Every decomposition goes through one guarded place: it has fallbacks, and its result is finite or an error.

Inside `torch.func.vmap`, which takes many layers at once, nothing can be looked at: there a result that cannot be relied on is NaN,
and whoever maps looks at all of them in the end.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from robust_lowrank.errors import TrainingError

PERTURBATION = 1e-7  # relative size of the noise that gets a stubborn matrix through the SVD


class FactorisationError(TrainingError):
    """A decomposition that no fallback could complete, or a core without scale."""


class SVD(NamedTuple):
    """`U @ diag(sigma) @ Vh`, with `sigma` descending."""

    U: Tensor
    sigma: Tensor
    Vh: Tensor


class QR(NamedTuple):
    """`Q @ R`, with orthonormal columns and an upper triangle."""

    Q: Tensor
    R: Tensor


class Eigh(NamedTuple):
    """`vectors @ diag(values) @ vectors.T`, with `values` ascending where LAPACK has not failed."""

    values: Tensor
    vectors: Tensor


Factors = TypeVar("Factors", bound=tuple[Tensor, ...])
Other = TypeVar("Other", bound=Tensor | None)


def at_least_float32(a: Tensor) -> Tensor:
    """Return `a` in float32 if it is of a shorter type, and as it is otherwise."""
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a


def in_float64(a: Tensor) -> Tensor:
    """Return `a` in float64, on the CPU if its device has none."""
    return a.cpu().double() if a.device.type == "mps" else a.double()


def mapped() -> bool:
    """Return whether this runs inside a transform of `torch.func`, where no value can be looked at."""
    return torch._C._are_functorch_transforms_active()


def checked(result: Callable[[], Tensor], holds: Tensor, otherwise: Callable[[], Other]) -> Tensor | Other:
    """Return a result where a condition holds, a scalar on its device, and else another one; inside a map NaN in its place."""
    if mapped():
        return torch.where(holds, result(), torch.nan)
    return result() if bool(holds) else otherwise()


def require_finite(core: Tensor) -> None:
    """Require that a core is finite.

    Raises:
        FactorisationError: it is not.
    """
    if not bool(core.isfinite().all()):
        raise FactorisationError("its core is not finite")


def svd(a: Tensor) -> SVD:
    """Return the reduced singular value decomposition, in float32 or better.

    LAPACK now and then fails to converge on matrices that are in order. Then the decomposition is tried in float64, then on
    the matrix with noise of relative size 1e-7.

    Raises:
        FactorisationError: `a` is not finite, or all attempts failed.
    """
    return _guarded("SVD", a, (_svd, _svd_in_float64, _svd_perturbed), otherwise="did not converge")


def qr(a: Tensor) -> QR:
    """Return the reduced Householder QR, in float32 or better; where it fails or overflows, that in float64.

    Raises:
        FactorisationError: `a` is not finite, or both attempts failed.
    """
    return _guarded("QR", a, (_qr, _qr_in_float64), otherwise="overflows")


def upper_triangle(a: Tensor) -> Tensor:
    """Return R of the QR of a tall matrix alone, as `qr` does."""
    return _guarded("QR", a, (_triangle, _triangle_in_float64), otherwise="overflows")[0]


def eigh(a: Tensor) -> Eigh:
    """Return the eigenvalues and eigenvectors of a symmetric matrix, in float32 or better; as `svd` where LAPACK fails.

    Raises:
        FactorisationError: as `svd`.
    """
    return _guarded("eigendecomposition", a, (_eigh, _eigh_by_svd), otherwise="did not converge")


def inverse(a: Tensor) -> Tensor:
    """Return the inverse, in float32 or better; of what is singular in that type, the one in float64.

    Raises:
        FactorisationError: `a` is not finite, or singular.
    """
    return _guarded("inverse", a, (_inverse, _inverse_in_float64), otherwise="does not exist: it is singular")[0]


def _guarded(kind: str, a: Tensor, attempts: Sequence[Callable[[Tensor], Factors]], *, otherwise: str) -> Factors:
    """Return what the first attempt finds that ends, and whose smallest factor, to which NaN spreads, is finite."""
    a = at_least_float32(a)
    failure = None
    if mapped():
        return attempts[0](a)
    with torch.autocast(a.device.type, enabled=False):
        for attempt in attempts:
            try:
                factors = attempt(a)
            except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
                failure = error
                continue
            if bool(min(factors, key=torch.numel).isfinite().all()):
                return factors
    reason = otherwise if bool(a.isfinite().all()) else "was given NaN or infinity"
    raise FactorisationError(f"the {kind} of a {tuple(a.shape)} matrix {reason}") from failure


def _svd(a: Tensor) -> SVD:
    return SVD(*torch.linalg.svd(a, full_matrices=False))


def _svd_in_float64(a: Tensor) -> SVD:
    return SVD(*(factor.to(a.dtype) for factor in torch.linalg.svd(a.double(), full_matrices=False)))


def _svd_perturbed(a: Tensor) -> SVD:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(a.shape, generator=generator, dtype=torch.float64).to(a.device)
    wide = a.double()
    return SVD(*(factor.to(a.dtype) for factor in _svd(wide + PERTURBATION * wide.norm() / noise.norm() * noise)))


def _qr(a: Tensor) -> QR:
    return QR(*torch.linalg.qr(a))


def _qr_in_float64(a: Tensor) -> QR:
    return QR(*(factor.to(a) for factor in torch.linalg.qr(in_float64(a))))


def _triangle(a: Tensor) -> tuple[Tensor]:
    return (torch.linalg.qr(a, mode="r").R,)


def _triangle_in_float64(a: Tensor) -> tuple[Tensor]:
    return (torch.linalg.qr(in_float64(a), mode="r").R.to(a),)


def _eigh(a: Tensor) -> Eigh:
    return Eigh(*torch.linalg.eigh(a))


def _eigh_by_svd(a: Tensor) -> Eigh:
    vectors, sizes, vh = svd(a)
    return Eigh(sizes * (vectors * vh.T).sum(0).sign(), vectors)


def _inverse(a: Tensor) -> tuple[Tensor]:
    return (torch.linalg.inv_ex(a).inverse,)


def _inverse_in_float64(a: Tensor) -> tuple[Tensor]:
    return (torch.linalg.inv_ex(in_float64(a)).inverse.to(a),)
