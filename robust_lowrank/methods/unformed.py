"""Bases that are extended and truncated within one step need not be formed at their larger size.

With A = U^T X and R^T R = X^T X - A^T A the columns (X - U A) R^{-1} extend an orthonormal U by the part of X outside it. What a
truncation keeps of them, [U | (X - U A) R^{-1}] P, is U (P_1 - A Y) + X Y with Y = R^{-1} P_2: two products with tall matrices.
R comes from a Gram matrix, so that columns of which X has little are not orthonormal. A step takes little of them too, unless it is
long or a rank grows into one of them: the result is looked at.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.linalg import Factors

SHIFT = 10.0  # roundings of its trace that are added to a Gram matrix, to have a triangle where it is singular
LARGEST_DEFECT = 100.0  # roundings by which columns may miss orthonormality before they are made orthonormal


class Extension(NamedTuple):
    """A basis U (n, r) and new columns, by a side X (n, k), A (r, k) and R (k, k)."""

    basis: Tensor
    side: Tensor
    inside: Tensor
    triangle: Tensor

    def turned(self, rotation: Tensor) -> Tensor | None:
        """Return the columns times P (r + k, r'), made orthonormal but for rounding; None if they are too far from that."""
        r = self.basis.shape[1]
        outside = torch.linalg.solve_triangular(self.triangle, rotation[r:], upper=True)
        columns = torch.addmm(self.basis @ (rotation[:r] - self.inside @ outside), self.side, outside)
        square = columns.T @ columns
        identity = torch.eye(len(square), dtype=square.dtype, device=square.device)
        if not bool((square - identity).abs().max() <= LARGEST_DEFECT * torch.finfo(square.dtype).eps):
            return None
        return columns @ (1.5 * identity - 0.5 * square)


def extension(basis: Tensor, side: Tensor, inside: Tensor) -> Extension | None:
    """Return the extension of a basis by a side whose part in the basis is known; None where it has no triangle."""
    if basis.shape[1] + side.shape[1] > len(basis):
        return None
    square = side.T @ side - inside.T @ inside
    diagonal = square.diagonal()
    diagonal += SHIFT * torch.finfo(square.dtype).eps * (diagonal.sum() + inside.square().sum())
    triangle, failed = torch.linalg.cholesky_ex(square, upper=True)
    return None if bool(failed) else Extension(basis, side, inside, triangle)


def extensions(factors: Factors, x: Factors) -> tuple[Extension, Extension] | None:
    """Return the bases of a matrix extended by a tangent vector; None where they have to be formed."""
    if x.core.ndim != 2 or x.core.shape[0] != x.core.shape[1]:
        return None
    (u, v), (k, side) = factors.bases, x.bases
    left = extension(u, k, x.core)
    right = None if left is None else extension(v, side, x.core.T)
    return None if left is None or right is None else (left, right)


def core_between(x: Factors, between: tuple[Extension, Extension]) -> Tensor:
    """Return the core of a tangent vector between the extended bases (methods (48b))."""
    left, right = between
    r, k = x.core.shape[0], len(left.triangle)
    core = x.core.new_zeros(r + k, r + len(right.triangle))
    core[:r, :r], core[r:, :r], core[:r, r:] = x.core, left.triangle, right.triangle.T
    return core


def truncate(between: tuple[Extension, Extension], decomposition: linalg.SVD, rank: int) -> Factors | None:
    """Return the leading triplets of a core between extended bases; None if these have to be formed."""
    p, sigma, qh = decomposition
    u, v = between[0].turned(p[:, :rank]), between[1].turned(qh[:rank].T)
    return None if u is None or v is None else Factors(sigma[:rank].diag(), (u, v))
