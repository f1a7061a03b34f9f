"""Bases that are extended and truncated within one step need not be formed at their larger size.

With A = U^T X and R^T R = X^T X - A^T A the columns (X - U A) R^{-1} extend an orthonormal U by the part of X outside it. What a
truncation keeps of them, [U | (X - U A) R^{-1}] P, is U (P_1 - A Y) + X Y with Y = R^{-1} P_2: two products with tall matrices.
R comes from a Gram matrix, so that columns of which X has little are not orthonormal. A step takes little of them too, unless it is
long or a rank grows into one of them: the result is looked at.

Layers are mapped over these functions: they look at no value but by `decompositions.checked`.
"""

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.bases import pad_core

SHIFT = 10.0  # roundings of its trace that are added to a Gram matrix, to have a triangle where it is singular
LARGEST_DEFECT = 100.0  # roundings by which columns may miss orthonormality before they are made orthonormal

Triangles = tuple[Tensor, Tensor]  # R of both bases


def extendable(factors: Factors) -> bool:
    """Return whether a weight is a matrix whose bases have room for a tangent vector's sides."""
    square = factors.core.ndim == 2 and factors.core.shape[0] == factors.core.shape[1]
    return square and all(2 * basis.shape[1] <= len(basis) for basis in factors.bases)


def triangles(x: Factors) -> Triangles | None:
    """Return R of each basis with room that a tangent vector's sides extend; None where one of them has to be formed."""
    left = _triangle(x.bases[0], x.core)
    right = None if left is None else _triangle(x.bases[1], x.core.T)
    return None if left is None or right is None else (left, right)


def core_between(factors: Factors, x: Factors, extended: Triangles) -> tuple[Tensor, Tensor]:
    """Return the cores of the weight and of a tangent vector between the extended bases (methods (48b))."""
    left, right = extended
    r = len(x.core)
    core = x.core.new_zeros(r + len(left), r + len(right))
    core[:r, :r], core[r:, :r], core[:r, r:] = x.core, left, right.T
    return pad_core(factors.core, (len(left), len(right))), core


def truncate(factors: Factors, x: Factors, extended: Triangles, decomposition: linalg.SVD, rank: int) -> Factors | None:
    """Return the leading triplets of a core between extended bases; None if these have to be formed."""
    p, sigma, qh = decomposition
    u = _turned(factors.bases[0], x.bases[0], x.core, extended[0], p[:, :rank])
    v = _turned(factors.bases[1], x.bases[1], x.core.T, extended[1], qh[:rank].T)
    return None if u is None or v is None else Factors(sigma[:rank].diag(), (u, v))


def _triangle(side: Tensor, inside: Tensor) -> Tensor | None:
    """Return R (k, k) for a side X (n, k) and its part A (r, k) in the basis."""
    square = side.T @ side - inside.T @ inside
    shift = SHIFT * torch.finfo(square.dtype).eps * (square.trace() + inside.square().sum())
    square = square + shift * torch.eye(len(square), dtype=square.dtype, device=square.device)
    triangle, failed = torch.linalg.cholesky_ex(square, upper=True)
    return linalg.checked(lambda: triangle, failed == 0, lambda: None)


def _turned(basis: Tensor, side: Tensor, inside: Tensor, triangle: Tensor, rotation: Tensor) -> Tensor | None:
    """Return the extended columns times P (r + k, r'), made orthonormal but for rounding; None if they are too far from that."""
    r = basis.shape[1]
    outside = torch.linalg.solve_triangular(triangle, rotation[r:], upper=True)
    columns = torch.addmm(basis @ (rotation[:r] - inside @ outside), side, outside)
    square = columns.T @ columns
    identity = torch.eye(len(square), dtype=square.dtype, device=square.device)
    near = (square - identity).abs().max() <= LARGEST_DEFECT * torch.finfo(square.dtype).eps
    return linalg.checked(lambda: columns @ (1.5 * identity - 0.5 * square), near, lambda: None)
