"""Linear algebra is pure here: orthonormal bases, retractions, truncation, clamp, Tucker products and HOSVD."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Ranks = tuple[int, ...]  # of the bases, in their order
Reference = Literal["rms", "mean", "exact"]
Retraction = Literal["qr", "polar"]

REFERENCE_FLOOR = 1e-12  # below it the reference value of the clamp is no scale to hold singular values to
PERTURBATION = 1e-7  # relative size of the noise that gets a stubborn matrix through the SVD
WELL_CONDITIONED = 10.0  # the norm of a Gram matrix I + D^T D up to which its Cholesky factor is as good as a QR
LEAST_PART = 100.0  # roundings of its norm that a matrix must have outside a basis for new columns to come from there


class FactorisationError(RuntimeError):
    """A singular value decomposition that no fallback could complete, or a core without scale."""


class SVD(NamedTuple):
    """`U @ diag(sigma) @ Vh`, with `sigma` descending."""

    U: Tensor
    sigma: Tensor
    Vh: Tensor


class Factors(NamedTuple):
    """A core and its orthonormal bases, that of mode i in place i: (S, (U, V)) for U S V^T; modes without one are whole."""

    core: Tensor
    bases: tuple[Tensor, ...]


def at_least_float32(a: Tensor) -> Tensor:
    """Return `a` in float32 if it is of a shorter type, and as it is otherwise."""
    return a.float() if a.dtype in (torch.float16, torch.bfloat16) else a


def in_float64(a: Tensor) -> Tensor:
    """Return `a` in float64, on the CPU if its device has none."""
    return a.cpu().double() if a.device.type == "mps" else a.double()


def triangle(a: Tensor) -> Tensor:
    """Return R of the QR of a tall matrix, in float64: B R^T has the singular values of B a^T."""
    return torch.linalg.qr(in_float64(a), mode="r").R


def svd(a: Tensor) -> SVD:
    """Return the reduced singular value decomposition, in float32 or better.

    LAPACK now and then fails to converge on matrices that are in order. Then the decomposition is tried in float64, then on
    the matrix with noise of relative size 1e-7.

    Raises:
        FactorisationError: `a` is not finite, or all attempts failed.
    """
    a = at_least_float32(a)
    with torch.autocast(a.device.type, enabled=False):
        for attempt in (_plain, _double, _perturbed):
            try:
                return attempt(a)
            except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
                failure = error
    reason = "did not converge" if bool(torch.isfinite(a).all()) else "was given NaN or infinity"
    raise FactorisationError(f"the SVD of a {tuple(a.shape)} matrix {reason}") from failure


def _plain(a: Tensor) -> SVD:
    return SVD(*torch.linalg.svd(a, full_matrices=False))


def _double(a: Tensor) -> SVD:
    return SVD(*(factor.to(a.dtype) for factor in torch.linalg.svd(a.double(), full_matrices=False)))


def _perturbed(a: Tensor) -> SVD:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(a.shape, generator=generator, dtype=torch.float64).to(a.device)
    wide = a.double()
    return SVD(*(factor.to(a.dtype) for factor in _plain(wide + PERTURBATION * wide.norm() / noise.norm() * noise)))


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues and eigenvectors of a symmetric matrix, in float32 or better; as `svd` where LAPACK fails.

    Raises:
        FactorisationError: as `svd`.
    """
    a = at_least_float32(a)
    with torch.autocast(a.device.type, enabled=False):
        try:
            values, vectors = torch.linalg.eigh(a)
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            vectors, sizes, vh = svd(a)
            values = sizes * (vectors * vh.T).sum(0).sign()
    return values, vectors


def orth(a: Tensor) -> Tensor:
    """Return Q of the reduced Householder QR: orthonormal columns whose span holds that of `a`, any signs."""
    return torch.linalg.qr(at_least_float32(a)).Q


def qf(a: Tensor) -> Tensor:
    """Return Q of the reduced QR with the signs that make the diagonal of R positive: the QR retraction."""
    q, r = torch.linalg.qr(at_least_float32(a))
    diagonal = r.diagonal()
    return q * torch.where(diagonal < 0, -1.0, 1.0).to(q.dtype)


def polar(a: Tensor) -> Tensor:
    """Return the orthonormal polar factor of a tall matrix, the nearest to it: the polar retraction."""
    q, r = torch.linalg.qr(at_least_float32(a))
    u, _, vh = svd(r)
    return q @ (u @ vh)


RETRACTIONS = {"qr": qf, "polar": polar}


def retract(basis: Tensor, increment: Tensor, retraction: Retraction) -> Tensor:
    """Return the retraction of an orthonormal basis plus an increment that is perpendicular to it.

    The Gram matrix of the sum is I + D^T D. Unless D is long, its Cholesky factor is the triangle of the QR factorisation, and
    its inverse root the other half of the polar one; both cost less than the Householder QR of the sum, and give the same.
    """
    moved = at_least_float32(basis + increment)
    square = moved.T @ moved
    if not bool(square.abs().sum(0).max() <= WELL_CONDITIONED):
        return RETRACTIONS[retraction](moved)
    return moved @ _inverse_root(square, retraction)


def _inverse_root(square: Tensor, retraction: Retraction) -> Tensor:
    """Return the triangle R^{-1} with R^T R = A, or the symmetric A^{-1/2}, of a well-conditioned Gram matrix A."""
    if retraction == "qr":
        lower = torch.linalg.cholesky_ex(square).L
        identity = torch.eye(len(square), dtype=square.dtype, device=square.device)
        return torch.linalg.solve_triangular(lower, identity, upper=False).T
    values, vectors = torch.linalg.eigh(square)
    return (vectors * values.rsqrt()) @ vectors.T


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
    q, triangle = torch.linalg.qr(project_out(basis, x))
    least = LEAST_PART * torch.finfo(x.dtype).eps * x.norm()
    if not bool(triangle.diagonal().abs().min() > least):
        rotation, sigma, _ = svd(triangle)
        q = q @ rotation[:, sigma > least]
    q = project_out(basis, q)
    return torch.cat([basis, q @ _inverse_root(q.T @ q, "qr")], 1)


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
    squares = torch.cat([sigma.new_zeros(1), sigma.flip(0).square()])
    return squares.cumsum(0).sqrt().flip(0)


def truncation_rank(sigma: Tensor, theta: Tensor | float, *, minimum: int = 0, maximum: int | None = None) -> int:
    """Return the least rank whose tail norm is at most `theta`, held between `minimum` and `maximum` (methods (4))."""
    rank = int((tail_norms(sigma) > theta).sum())
    rank = max(rank, minimum)
    return min(rank, len(sigma) if maximum is None else maximum, len(sigma))


def half_width(tau: float) -> float:
    """Return the eps for which singular values in s(1 - eps) .. s(1 + eps) have a condition number of at most 1 + tau."""
    return tau / (2 + tau)


def reference_value(sigma: Tensor, tau: float, reference: Reference | float) -> Tensor:
    """Return the value s around which the clamp holds the singular values.

    A number is s itself, `rms` is ||S|| / sqrt(r), `mean` the mean, `exact` the value whose clamp is the nearest point with
    cond <= 1 + tau (methods (17)), found in closed form on the active sets.
    """
    if isinstance(reference, float):
        return sigma.new_tensor(reference)
    if reference == "rms":
        return sigma.square().mean().sqrt()
    if reference == "mean":
        return sigma.mean()
    eps = half_width(tau)
    lower, upper = 1 - eps, 1 + eps
    knots = torch.cat([sigma / lower, sigma / upper]).sort().values
    lifted = (knots[:, None] * lower - sigma).clamp(min=0).sum(1)
    cut = (sigma - knots[:, None] * upper).clamp(min=0).sum(1)
    slope = lower * lifted - upper * cut
    last = ((slope <= 0).sum() - 1).clamp(0, len(knots) - 2)
    inside = torch.stack([knots.gather(0, last[None]), knots.gather(0, last[None] + 1)]).mean()
    high, low = (sigma > inside * upper).to(sigma), (sigma < inside * lower).to(sigma)
    total = upper * (sigma * high).sum() + lower * (sigma * low).sum()
    weight = upper**2 * high.sum() + lower**2 * low.sum()
    return torch.where(weight > 0, total / (weight + (weight == 0)), inside)


def clamp_values(sigma: Tensor, tau: float, reference: Reference | float = "rms") -> Tensor:
    """Return descending singular values clamped so that their ratio is at most 1 + tau (methods (16), (17)).

    Raises:
        FactorisationError: the reference value is below 1e-12 or NaN.
    """
    if tau == float("inf"):
        return sigma
    s = reference_value(sigma, tau, reference)
    if not bool(s >= REFERENCE_FLOOR):
        raise FactorisationError(f"the reference value of the singular values is {float(s):.3g}: nothing to clamp them to")
    eps = half_width(tau)
    clamped = sigma.clamp(s * (1 - eps), s * (1 + eps))
    if reference == "exact":
        return torch.where(sigma[0] <= (1 + tau) * sigma[-1], sigma, clamped)
    return clamped


def clamp_spectrum(a: Tensor, tau: float, reference: Reference | float = "rms") -> Tensor:
    """Return the matrix with its singular values clamped so that cond <= 1 + tau; `tau = inf` leaves it alone.

    Example:
        >>> s = clamp_spectrum(torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0])), 0.5)
        >>> float(torch.linalg.cond(s))  # 1 + tau
        1.5
    """
    if tau == float("inf"):
        return a
    u, sigma, vh = svd(a)
    return (u * clamp_values(sigma, tau, reference)) @ vh


def unfold(tensor: Tensor, mode: int) -> Tensor:
    """Return the mode-i unfolding: mode i as rows, the other modes in their order as columns."""
    return tensor.movedim(mode, 0).flatten(1)


def fold(matrix: Tensor, mode: int, shape: Sequence[int]) -> Tensor:
    """Return the tensor of that shape whose mode-i unfolding is the matrix."""
    others = [size for i, size in enumerate(shape) if i != mode]
    return matrix.reshape(shape[mode], *others).movedim(0, mode)


def row_basis(core: Tensor, mode: int) -> Tensor:
    """Return Q_i of Mat_i(C) = S_i Q_i^T, a column a row: orthonormal ones that span the rows, and zeros for rows in excess."""
    q = orth(unfold(core, mode).T)
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
