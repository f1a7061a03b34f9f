"""Principal angles between subspaces are computed from small matrices, accurately at any size."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg


class Overlap(NamedTuple):
    """Overlap of two bases: cosines (R, r) of the smaller in the larger, and the Gram matrix (r, r) of the rest."""

    cross: Tensor
    rest: Tensor


def overlap(before: Tensor, after: Tensor) -> Overlap:
    """Return the overlap of two orthonormal bases (n, r1) and (n, r2), on their device and without waiting for it."""
    small, large = sorted((linalg.at_least_float32(before), linalg.at_least_float32(after)), key=lambda basis: basis.shape[1])
    cross = large.T @ small
    rest = small - large @ cross
    return Overlap(cross, rest.T @ rest)


def largest_angle(turned: Overlap) -> float:
    """Return the largest principal angle between two subspaces, in radians from 0 to pi / 2; NaN if a basis is not finite.

    Example:
        >>> line, tilted = torch.tensor([[1.0], [0.0]]), torch.tensor([[1.0], [1.0]]) / math.sqrt(2)
        >>> round(largest_angle(overlap(line, tilted)), 4)  # pi / 4
        0.7854

    Of subspaces of different dimensions, as after a change of rank, it says how far the smaller one is from lying in the larger.
    The angle comes of its sine and its cosine together, so that neither rounding error counts.

    Source: Björck, Golub 1973, "Numerical methods for computing angles between linear subspaces".
    """
    if not all(bool(torch.isfinite(part).all()) for part in turned):
        return math.nan
    sine = math.sqrt(float(linalg.svd(turned.rest).sigma[0]))
    cosine = float(linalg.svd(turned.cross).sigma[-1])
    return math.atan2(sine, cosine)
