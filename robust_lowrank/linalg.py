"""Linear algebra is pure here: orthonormal bases, retractions, truncation, clamp, Tucker products and HOSVD."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robust_lowrank.decompositions import SVD as SVD
from robust_lowrank.decompositions import FactorisationError as FactorisationError
from robust_lowrank.decompositions import at_least_float32 as at_least_float32
from robust_lowrank.decompositions import checked as checked
from robust_lowrank.decompositions import eigh as eigh
from robust_lowrank.decompositions import in_float64 as in_float64
from robust_lowrank.decompositions import inverse as inverse
from robust_lowrank.decompositions import mapped as mapped
from robust_lowrank.decompositions import qr as qr
from robust_lowrank.decompositions import require_finite as require_finite
from robust_lowrank.decompositions import svd as svd
from robust_lowrank.decompositions import upper_triangle as upper_triangle

Ranks = tuple[int, ...]  # of the bases, in their order
Reference = Literal["rms", "mean", "exact"]
Retraction = Literal["qr", "polar"]

REFERENCE_FLOOR = 1e-12  # below it the reference value of the clamp is no scale to hold singular values to
WELL_CONDITIONED = 10.0  # the condition number of a Gram matrix up to which its factors are as good as those of a QR or SVD
LEAST_PART = 100.0  # roundings of its norm that a matrix must have outside a basis for new columns to come from there


class Factors(NamedTuple):
    """A core and its orthonormal bases, that of mode i in place i: (S, (U, V)) for U S V^T; modes without one are whole."""

    core: Tensor
    bases: tuple[Tensor, ...]


def triangle(a: Tensor) -> Tensor:
    """Return R of the QR of a tall matrix, in float64, without waiting for its device: B R^T has the singular values of B a^T.

    What is not finite in the matrix spreads in it: it is not guarded, so that a monitor can look at what has diverged.
    """
    return torch.linalg.qr(in_float64(a), mode="r").R


def norm(a: Tensor) -> Tensor:
    """Return ||A||, in float64, where no square overflows or vanishes."""
    return in_float64(a).norm()


def orth(a: Tensor) -> Tensor:
    """Return Q of the reduced Householder QR: orthonormal columns whose span holds that of `a`, any signs."""
    return qr(a).Q


def qf(a: Tensor) -> Tensor:
    """Return Q of the reduced QR with the signs that make the diagonal of R positive: the QR retraction."""
    q, r = qr(a)
    diagonal = r.diagonal()
    return q * torch.where(diagonal < 0, -1.0, 1.0).to(q.dtype)


def polar(a: Tensor) -> Tensor:
    """Return the orthonormal polar factor of a tall matrix, the nearest to it: the polar retraction."""
    q, r = qr(a)
    u, _, vh = svd(r)
    return q @ (u @ vh)


RETRACTIONS = {"qr": qf, "polar": polar}


def retract(moved: Tensor, retraction: Retraction) -> Tensor:
    """Return the retraction of an orthonormal basis to which something perpendicular to it has been added.

    The Gram matrix of the sum is I + D^T D. Unless D is long, its Cholesky factor is the triangle of the QR factorisation, and
    its inverse root the other half of the polar one; both cost less than the Householder QR of the sum, and give the same.
    """
    moved = at_least_float32(moved)
    square = moved.T @ moved
    near = square.abs().sum(0).max() <= WELL_CONDITIONED
    return checked(lambda: _normalised(moved, square, retraction), near, lambda: RETRACTIONS[retraction](moved))


def _normalised(columns: Tensor, square: Tensor, retraction: Retraction) -> Tensor:
    """Return columns, with their well-conditioned Gram matrix A, times R^{-1} with R^T R = A, or times A^{-1/2}."""
    if retraction == "qr":
        lower, failed = torch.linalg.cholesky_ex(square)
        identity = torch.eye(len(square), dtype=square.dtype, device=square.device)
        return checked(
            lambda: columns @ torch.linalg.solve_triangular(lower, identity, upper=False).T, failed == 0, lambda: qf(columns)
        )
    values, vectors = eigh(square)
    return checked(lambda: columns @ ((vectors * values.rsqrt()) @ vectors.T), values.min() > 0, lambda: polar(columns))


def extend(basis: Tensor, x: Tensor) -> Tensor:
    """Return orthonormal columns, an orthonormal basis first, whose span is that of it and `x`; all there are if both have more.

    The new columns come from `x` without its part in the basis, and are made perpendicular to the basis once more. What of `x` is
    outside the basis but by rounding adds none: a column from it would depend on how rounding fell.
    """
    basis, x = at_least_float32(basis), at_least_float32(x)
    n, r = basis.shape
    basis = polish(basis)
    if r == n:
        return basis
    if r + x.shape[1] > n:
        return torch.cat([basis, orth(torch.cat([basis, x], 1))[:, r:]], 1)
    q, triangle = qr(project_out(basis, x))
    least = LEAST_PART * torch.finfo(x.dtype).eps * norm(x).to(x)
    if not bool(triangle.diagonal().abs().min() > least):
        rotation, sigma, _ = svd(triangle)
        q = q @ rotation[:, sigma > least]
    q = project_out(basis, q)
    return torch.cat([basis, _normalised(q, q.T @ q, "qr")], 1)


def gram_defect(basis: Tensor) -> Tensor:
    """Return ||U^T U - I||, a scalar on the basis' device."""
    return (basis.T @ basis - torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)).norm()


def polish(basis: Tensor) -> Tensor:
    """Return U (3 I - U^T U) / 2: columns that are orthonormal but for rounding, without the rounding that has added up in them."""
    return 1.5 * basis - 0.5 * basis @ (basis.T @ basis)


def project_out(basis: Tensor, x: Tensor) -> Tensor:
    """Return (I - U U^T) x."""
    return x - basis @ (basis.T @ x)


def tangent(g: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the orthogonal projection of `g` on the tangent space of the rank-r manifold at `u S v.T` (methods (3))."""
    ug, gv = u.T @ g, g @ v
    return u @ ug + gv @ v.T - u @ (ug @ v) @ v.T


def tail_norms(sigma: Tensor) -> Tensor:
    """Return the norms of what is cut off when j = 0, 1, ..., len(sigma) singular values are kept."""
    wide = in_float64(sigma)  # squares of float32 neither overflow there nor vanish
    squares = torch.cat([wide.new_zeros(1), wide.flip(0).square()])
    return squares.cumsum(0).sqrt().flip(0)


def truncation_rank(sigma: Tensor, theta: Tensor | float, *, minimum: int = 0, maximum: int | None = None) -> int:
    """Return the least rank whose tail norm is at most `theta`, held between `minimum` and `maximum` (methods (4))."""
    rank = int((tail_norms(sigma) > theta).sum())
    rank = max(rank, minimum)
    return min(rank, len(sigma) if maximum is None else maximum, len(sigma))


def half_width(tau: float) -> float:
    """Return the eps for which singular values in s(1 - eps) .. s(1 + eps) have a condition number of at most 1 + tau."""
    return tau / (2 + tau)


def reference_value(sigma: Tensor, tau: float, reference: Reference | float) -> float:
    """Return the value s around which the clamp holds the singular values.

    A number is s itself, `rms` is ||S|| / sqrt(r), `mean` the mean, `exact` the value whose clamp is the nearest point with
    cond <= 1 + tau (methods (17)), found in closed form on the active sets.
    """
    if isinstance(reference, float):
        return reference
    values = in_float64(sigma).cpu().numpy()  # where so few numbers are dealt with in a tenth of the time
    if reference == "rms":
        return float(np.linalg.norm(values)) / math.sqrt(len(values))
    return float(values.mean()) if reference == "mean" else _nearest_reference(values, half_width(tau))


def _nearest_reference(sigma: np.ndarray, eps: float) -> float:
    """Return the s for which s(1 - eps) .. s(1 + eps) is the nearest such interval: the root of a slope that is linear by parts."""
    lower, upper = 1 - eps, 1 + eps
    rising = np.sort(sigma)
    sums = np.concatenate([[0.0], rising.cumsum()])
    knots = np.sort(np.concatenate([rising / lower, rising / upper]))
    below, reached = rising.searchsorted(knots * lower), rising.searchsorted(knots * upper, side="right")
    lifted = below * knots * lower - sums[below]
    cut = sums[-1] - sums[reached] - (len(rising) - reached) * knots * upper
    last = min(max(np.count_nonzero(lower * lifted - upper * cut <= 0) - 1, 0), len(knots) - 2)
    inside = (knots[last] + knots[last + 1]) / 2
    high, low = rising[rising > inside * upper], rising[rising < inside * lower]
    weight = upper**2 * len(high) + lower**2 * len(low)
    return float((upper * high.sum() + lower * low.sum()) / weight if weight else inside)


def clamp_values(sigma: Tensor, tau: float, reference: Reference | float = "rms") -> Tensor:
    """Return descending singular values clamped so that their ratio is at most 1 + tau (methods (16), (17)).

    Raises:
        FactorisationError: the reference value is below 1e-12 or NaN.
    """
    if tau == float("inf"):
        return sigma
    s = reference_value(sigma, tau, reference)
    if not s >= REFERENCE_FLOOR:
        raise FactorisationError(f"the reference value of the singular values is {s:.3g}: nothing to clamp them to")
    if reference == "exact" and bool(sigma[0] <= (1 + tau) * sigma[-1]):
        return sigma
    eps = half_width(tau)
    return sigma.clamp(s * (1 - eps), s * (1 + eps))


def clamp_spectrum(a: Tensor, tau: float, reference: Reference | float = "rms") -> Tensor:
    """Return the matrix with its singular values clamped so that cond <= 1 + tau; `tau = inf` leaves it alone.

    Example:
        >>> s = clamp_spectrum(torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0])), 0.5)
        >>> float(torch.linalg.cond(s))  # 1 + tau
        1.5
    """
    if tau == float("inf"):
        return a
    if a.shape[0] < a.shape[1]:
        return clamp_spectrum(a.mT, tau, reference).mT
    if (clamped := _clamp_well_conditioned(at_least_float32(a), tau, reference)) is not None:
        return clamped
    u, sigma, vh = svd(a)
    return (u * clamp_values(sigma, tau, reference)) @ vh


def _clamp_well_conditioned(a: Tensor, tau: float, reference: Reference | float) -> Tensor | None:
    """Return a clamped matrix by way of A^T A, in half the time of an SVD; None where that would lose digits."""
    square = a.mT @ a
    if (1 + tau) ** 2 > WELL_CONDITIONED or not bool(square.sum().isfinite()):
        return None
    values, vectors = eigh(square)
    if not bool(values[0] * WELL_CONDITIONED > values[-1]):
        return None
    sigma = values.flip(0).sqrt()
    clamped = clamp_values(sigma, tau, reference)
    return a if clamped is sigma else a @ (vectors * (clamped / sigma).flip(0)) @ vectors.mT


def unfold(tensor: Tensor, mode: int) -> Tensor:
    """Return the mode-i unfolding: mode i as rows, the other modes in their order as columns."""
    return tensor.movedim(mode, 0).flatten(1)


def fold(matrix: Tensor, mode: int, shape: Sequence[int]) -> Tensor:
    """Return the tensor of that shape whose mode-i unfolding is the matrix."""
    others = [size for i, size in enumerate(shape) if i != mode]
    return matrix.reshape(shape[mode], *others).movedim(0, mode)


def row_basis(core: Tensor, mode: int) -> Tensor:
    """Return Q_i of Mat_i(C) = S_i Q_i^T, a column a row: orthonormal ones that span the rows, and zeros for rows in excess.

    It belongs to a backward pass, so that it waits for no device and compilers can follow it; gradients are looked at afterwards.
    """
    q = torch.linalg.qr(at_least_float32(unfold(core, mode).T)).Q
    return torch.nn.functional.pad(q, (0, core.shape[mode] - q.shape[1]))


def mode_product(tensor: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Return the mode-i product with a matrix (k x n_i)."""
    return (tensor.movedim(mode, -1) @ matrix.T).movedim(-1, mode)


def multi_product(tensor: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Return the product with matrix i on mode i, for as many modes as there are matrices."""
    for mode, matrix in enumerate(matrices):
        tensor = mode_product(tensor, matrix, mode)
    return tensor


def hosvd(tensor: Tensor, ranks: Sequence[int]) -> Factors:
    """Return the truncated higher-order SVD of the leading modes; all bases come from the same tensor."""
    bases = tuple(svd(unfold(tensor, mode)).U[:, :rank] for mode, rank in enumerate(ranks))
    return Factors(multi_product(tensor, [basis.T for basis in bases]), bases)


def tucker_ranks(core: Tensor, wanted: list[int]) -> list[int]:
    """Return the ranks clipped so that none exceeds the product of the others, modes without a basis counted whole."""
    static = math.prod(core.shape[len(wanted) :])
    ranks = list(wanted)
    for i in range(len(ranks)):
        others = static * math.prod(rank for j, rank in enumerate(ranks) if j != i)
        ranks[i] = min(ranks[i], others)
    return ranks
