"""Tangent vectors of the manifold of factored weights are what optimizers remember.

A tangent vector X at W = U S V^T is held as its projections (X_S, (X_K, X_L)) = (U^T X V, (X V, X^T U)), in the slots in which a
backward pass delivers those of the gradient (methods (2b)): X = X_K V^T + U X_L^T - U X_S V^T. In Tucker form they are X_C, the
product of X with all U_i^T, and X_{K_i} = Mat_i(X x_{j != i} U_j^T) Q_i, with Q_i as in Mat_i(C) = S_i Q_i^T. They take as many
numbers as the factors, add up like gradients do, and their meaning does not depend on the choice of bases.
"""

import math
from collections.abc import Sequence

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
    return _projected(x, old, old.bases, new)


def stretch(x: Factors, factors: Factors, scales: Sequence[Tensor]) -> Factors:
    """Return the projection of the product of X with a diagonal matrix on each mode that has a basis (methods (75))."""
    stretched = tuple(scale[:, None] * basis for scale, basis in zip(scales, factors.bases, strict=True))
    return _projected(x, factors, stretched, factors, scales)


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


def mean_squares(x: Factors, factors: Factors) -> tuple[Tensor, ...]:
    """Return for each mode with a basis the mean square of every slice of X: of its rows, of its columns (methods (73))."""
    others = _others(factors)
    if factors.core.ndim == 2:
        (u, v), (k, side) = factors.bases, x.bases
        rows = k.square().sum(1) + _quadratic(u, side.T @ side - x.core @ x.core.T)
        columns = side.square().sum(1) + _quadratic(v, k.T @ k - x.core.T @ x.core)
        return rows / others[0], columns / others[1]
    sides = _outside(x, factors)
    frames = [_frame(factors.core, i) for i in range(len(sides))]
    squares = []
    for i, basis in enumerate(factors.bases):
        square = linalg.unfold(x.core, i) @ linalg.unfold(x.core, i).T
        for j, side in enumerate(sides):
            if j != i:
                reached = linalg.unfold(frames[j], i)
                square = square + reached @ linalg.unfold(linalg.mode_product(frames[j], side.T @ side, j), i).T
        cross = linalg.unfold(x.core, i) @ linalg.unfold(frames[i], i).T
        outside = sides[i].square().sum(1) + 2 * ((basis @ cross) * sides[i]).sum(1)
        squares.append((_quadratic(basis, square) + outside).clamp(min=0) / others[i])
    return tuple(squares)


def _others(factors: Factors) -> list[int]:
    """Return for each mode with a basis the number of entries of a slice of the weight."""
    return [size(factors) // len(basis) for basis in factors.bases]


def _quadratic(basis: Tensor, square: Tensor) -> Tensor:
    """Return u_i A u_i^T for every row of a basis, A positive but for rounding."""
    return ((basis @ square) * basis).sum(1).clamp(min=0)


def _frame(core: Tensor, mode: int) -> Tensor:
    """Return the core whose mode-i unfolding is Q_i^T; for a matrix S that is the identity, so that X_K is X V itself."""
    if core.ndim == 2:
        size = core.shape[1 - mode]
        return torch.eye(size, dtype=core.dtype, device=core.device)
    return linalg.fold(linalg.row_basis(core, mode).T, mode, core.shape)


def _outside(x: Factors, factors: Factors) -> list[Tensor]:
    """Return X's parts outside each basis, in the coordinates of the slots."""
    return [linalg.project_out(basis, side) for basis, side in zip(factors.bases, x.bases, strict=True)]


def _projected(x: Factors, at: Factors, bases: Sequence[Tensor], new: Factors, scales: Sequence[Tensor] | None = None) -> Factors:
    """Return the projection at `new` of X, a vector at `at` whose bases, and sides by `scales`, have been replaced."""
    if at.core.ndim == 2:
        return _projected_matrix(x, bases, new, scales)
    sides = _outside(x, at)
    if scales is not None:
        sides = [scale[:, None] * side for scale, side in zip(scales, sides, strict=True)]
    modes = range(len(sides))
    frames = [_frame(at.core, i) for i in modes]
    turns = [basis.T @ old for basis, old in zip(new.bases, bases, strict=True)]
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
        q = linalg.unfold(frames[i], i).T if new.core is at.core else linalg.row_basis(new.core, i)
        moved.append(bases[i] @ (linalg.unfold(within, i) @ q) + sides[i] @ (linalg.unfold(frame, i) @ q))
        if i == 0:
            core = linalg.mode_product(within, turns[0], 0) + linalg.mode_product(frame, reached[0], 0)
    return Factors(core, tuple(moved))


def _projected_matrix(x: Factors, bases: Sequence[Tensor], new: Factors, scales: Sequence[Tensor] | None) -> Factors:
    s, (k, side) = x
    left, right = bases
    if scales is not None:
        k, side = scales[0][:, None] * k, scales[1][:, None] * side
    u, v = new.bases
    a, b = left.T @ u, right.T @ v
    moved_k = k @ b + left @ (side.T @ v - s @ b)
    moved_l = side @ a + right @ (k.T @ u - s.T @ a)
    return Factors(u.T @ moved_k, (moved_k, moved_l))
