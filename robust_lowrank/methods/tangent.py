"""Tangent vectors of the manifold of factored weights are what optimizers remember.

A tangent vector X at W = U S V^T is held as its projections (X_S, (X_K, X_L)) = (U^T X V, (X V, X^T U)), in the slots in which a
backward pass delivers those of the gradient (methods (2b)): X = X_K V^T + U X_L^T - U X_S V^T. In Tucker form they are X_C, the
product of X with all U_i^T, and X_{K_i} = Mat_i(X x_{j != i} U_j^T) Q_i, with Q_i as in Mat_i(C) = S_i Q_i^T. They take as many
numbers as the factors, add up like gradients do, and their meaning does not depend on the choice of bases.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.linalg import Factors


def of_core(factors: Factors, core: Tensor) -> Factors:
    """Return the tangent vector with a core in the bases of `factors` and nothing outside; with their own core, W itself."""
    if core.ndim == 2:
        u, v = factors.bases
        return Factors(core, (u @ core, v @ core.T))
    sides = (basis @ linalg.unfold(core, i) @ linalg.row_basis(factors.core, i) for i, basis in enumerate(factors.bases))
    return Factors(core, tuple(sides))


def add(x: Factors, y: Factors, *, by: float | Tensor = 1.0) -> Factors:
    """Return X + by Y, both at the same factors."""
    return Factors(x.core + by * y.core, tuple(a + by * b for a, b in zip(x.bases, y.bases, strict=True)))


def scale(x: Factors, by: float | Tensor) -> Factors:
    """Return by X."""
    return Factors(by * x.core, tuple(by * side for side in x.bases))


def squared_norm(x: Factors, factors: Factors) -> Tensor:
    """Return ||X||^2, a scalar: that of the core and of what lies outside each basis."""
    outside = (linalg.project_out(basis, side).square().sum() for basis, side in zip(factors.bases, x.bases, strict=True))
    return sum(outside, start=x.core.square().sum())


def size(factors: Factors) -> int:
    """Return the number of entries of the whole weight."""
    return math.prod(map(len, factors.bases)) * math.prod(factors.core.shape[len(factors.bases) :])


def transport(x: Factors, old: Factors, new: Factors) -> Factors:
    """Return the orthogonal projection of a tangent vector at `old` on the tangent space at `new` (methods (70))."""
    if old.core.ndim == 2:
        return _transport_matrix(x, old, new)
    sides = _outside(x, old)
    modes = range(len(sides))
    frames = [_frame(old.core, i) for i in modes]
    turns = [after.T @ before for after, before in zip(new.bases, old.bases, strict=True)]
    reached = [basis.T @ side for basis, side in zip(new.bases, sides, strict=True)]

    def turned(core: Tensor, maps: Sequence[Tensor], left_out: int) -> Tensor:
        for j, each in enumerate(maps):
            core = core if j == left_out else linalg.mode_product(core, each, j)
        return core

    moved = []
    core = x.core
    for i in modes:
        within = turned(x.core, turns, i)
        for k in modes:
            if k != i:
                within = within + turned(frames[k], [*turns[:k], reached[k], *turns[k + 1 :]], i)
        frame = turned(frames[i], turns, i)
        q = linalg.row_basis(new.core, i)
        moved.append(old.bases[i] @ (linalg.unfold(within, i) @ q) + sides[i] @ (linalg.unfold(frame, i) @ q))
        if i == 0:
            core = linalg.mode_product(within, turns[0], 0) + linalg.mode_product(frame, reached[0], 0)
    return Factors(core, tuple(moved))


def core_between(x: Factors, factors: Factors, bases: Sequence[Tensor], *, outside: float = 1.0) -> Tensor:
    """Return the core of X between bases that extend those of `factors` by X's parts outside them (methods (48b)).

    Args:
        outside: the factor of the blocks that reach from the old bases into the new columns (methods (78)).
    """
    ranks = [basis.shape[1] for basis in factors.bases]
    core = x.core.new_zeros(*(basis.shape[1] for basis in bases), *x.core.shape[len(ranks) :])
    within = tuple(map(slice, ranks))
    core[within] = x.core
    for i, (side, basis) in enumerate(zip(x.bases, bases, strict=True)):
        reached = linalg.mode_product(_frame(factors.core, i), basis[:, ranks[i] :].T @ side, i)
        core[(*within[:i], slice(ranks[i], None), *within[i + 1 :])] = outside * reached
    return core


def orthogonalise(x: Factors, factors: Factors, *, cutoff: float) -> tuple[Factors, Tensor]:
    """Return the tangent part of the matrix sign P Q^T of X = P Sigma Q^T, a kernel being that of its filters, and X's rank.

    Singular values up to `cutoff` times the largest count as none. X is held between bases of at most twice the factors' ranks, so
    that only a small matrix is decomposed.
    """
    bases = tuple(linalg.extend(basis, side) for basis, side in zip(factors.bases, x.bases, strict=True))
    core = core_between(x, factors, bases)
    p, sigma, qh = linalg.svd(linalg.unfold(core, 0))
    held = (sigma > cutoff * sigma[0]).to(sigma.dtype)
    wide = Factors(((p * held) @ qh).reshape(core.shape), bases)
    return transport(of_core(wide, wide.core), wide, factors), held.sum()


def covariances(x: Factors, factors: Factors) -> tuple[Tensor, ...]:
    """Return for each mode U_i^T Mat_i(X) Mat_i(X)^T U_i, r_i × r_i: of a matrix (U^T X X^T U, V^T X^T X V) (methods (73))."""
    if factors.core.ndim == 2:
        k, side = x.bases
        return side.T @ side, k.T @ k
    sides = _outside(x, factors)
    frames = [_frame(factors.core, i) for i in range(len(sides))]
    squares = []
    for i in range(len(sides)):
        square = linalg.unfold(x.core, i) @ linalg.unfold(x.core, i).T
        for j, side in enumerate(sides):
            if j != i:
                reached = linalg.unfold(frames[j], i)
                square = square + reached @ linalg.unfold(linalg.mode_product(frames[j], side.T @ side, j), i).T
        squares.append(square)
    return tuple(squares)


def whiten(x: Factors, factors: Factors, roots: Sequence[Callable[[float], Tensor]]) -> Factors:
    """Return X multiplied in each mode by a power of that mode's covariance, projected on the tangent space (methods (75)).

    What lies inside all bases is whitened from each of its d sides by the power -1/2d, what lies outside one from the others alone
    by -1/2(d - 1).

    Args:
        roots: for each mode with a basis a function from an exponent to that power of its covariance.
    """
    modes = range(len(roots))
    sides = _outside(x, factors)
    inside = [root(-1 / (2 * len(roots))) for root in roots]
    across = [root(-1 / (2 * (len(roots) - 1))) for root in roots]
    core = x.core
    for i in modes:
        core = linalg.mode_product(core, inside[i], i)
    if core.ndim == 2:
        outside = [sides[0] @ across[1], sides[1] @ across[0]]
    else:
        outside = []
        for i in modes:
            frame = whitened = _frame(factors.core, i)
            for j in modes:
                whitened = whitened if j == i else linalg.mode_product(whitened, across[j], j)
            outside.append(sides[i] @ (linalg.unfold(whitened, i) @ linalg.unfold(frame, i).T))
    within = of_core(factors, core)
    return Factors(core, tuple(a + b for a, b in zip(within.bases, outside, strict=True)))


def noise_covariances(factors: Factors) -> list[float]:
    """Return for each mode the mean eigenvalue of the covariance of the tangent part of white noise of mean square 1."""
    ranks = [basis.shape[1] for basis in factors.bases]
    outside = _outside_entries(factors)
    return [(factors.core.numel() + sum(outside) - outside[i]) / r for i, r in enumerate(ranks)]


def whitened_size(factors: Factors) -> float:
    """Return the mean of ||X||^2 of white noise's tangent part, whitened: the rank, if bases are complete, else about twice it."""
    levels = noise_covariances(factors)
    found = factors.core.numel() / math.prod(levels) ** (1 / len(levels))
    for entries, level in zip(_outside_entries(factors), levels, strict=True):
        found += entries / (math.prod(levels) / level) ** (1 / (len(levels) - 1))
    return found


def transport_covariances(squares: Sequence[Tensor], old: Factors, new: Factors) -> tuple[Tensor, ...]:
    """Return covariances in new bases; directions that the old ones do not reach have the mean of those that they do."""
    moved = []
    for square, before, after in zip(squares, old.bases, new.bases, strict=True):
        turn = after.T @ before
        unreached = torch.eye(len(turn), dtype=turn.dtype, device=turn.device) - turn @ turn.T
        moved.append(turn @ square @ turn.T + square.diagonal().mean() * unreached)
    return tuple(moved)


def _outside_entries(factors: Factors) -> list[int]:
    """Return for each mode how many numbers reach outside its basis: each of the other directions times the frame's rank.

    A matrix between bases of different sizes has as many frames as the other basis has columns.
    """
    pairs = enumerate(factors.bases)
    frames = [factors.core.shape[1 - i] if factors.core.ndim == 2 else basis.shape[1] for i, basis in pairs]
    return [(len(basis) - basis.shape[1]) * frame for basis, frame in zip(factors.bases, frames, strict=True)]


def _frame(core: Tensor, mode: int) -> Tensor:
    """Return the core whose mode-i unfolding is Q_i^T; for a matrix S that is the identity, so that X_K is X V itself."""
    if core.ndim == 2:
        size = core.shape[1 - mode]
        return torch.eye(size, dtype=core.dtype, device=core.device)
    return linalg.fold(linalg.row_basis(core, mode).T, mode, core.shape)


def _outside(x: Factors, factors: Factors) -> list[Tensor]:
    """Return X's parts outside each basis, in the coordinates of the slots."""
    return [linalg.project_out(basis, side) for basis, side in zip(factors.bases, x.bases, strict=True)]


def _transport_matrix(x: Factors, old: Factors, new: Factors) -> Factors:
    s, (k, side) = x
    left, right = old.bases
    u, v = new.bases
    a, b = left.T @ u, right.T @ v
    moved_k = k @ b + left @ (side.T @ v - s @ b)
    moved_l = side @ a + right @ (k.T @ u - s.T @ a)
    return Factors(u.T @ moved_k, (moved_k, moved_l))
