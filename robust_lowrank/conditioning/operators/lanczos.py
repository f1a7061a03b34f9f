"""Lanczos' method estimates the norm of a strided, padded convolution from below."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank.conditioning.operators.convolution import Convolution, LinearLayer, apply, apply_adjoint, convolution

SPENT = 1e-12  # of the norm's square: a direction this short is rounding, and the subspace is invariant


class Estimate(NamedTuple):
    """An estimate from below: `residual` is `|A^T A v - value^2 v| / value^2` of the unit vector v with `|A v| = value`."""

    value: float
    residual: float
    steps: int


@torch.no_grad()
def conv_norm(
    layer: LinearLayer | Convolution, size: tuple[int, int], *, steps: int = 100, tolerance: float = 1e-5, seed: int = 0
) -> Estimate:
    """Return an estimate of the norm of a convolution on images of one size.

    Example:
        >>> conv_norm(nn.Conv2d(3, 8, 3, padding=1), (8, 8)).residual < 1e-5
        True

    Lanczos' method on `A^T A` with full reorthogonalisation, in float64. The value is `|A v|` of a unit vector, so it is never
    above the norm, but for rounding. A small residual says that `value^2` is near *an* eigenvalue; that it is the largest one is
    likely, for the start is random, but not proved: for a proof take `conv_bound`.

    Args:
        layer: the layer, or its map.
        size: height and width of its input; (1, 1) of a linear layer.
        steps: the most applications of `A^T A`.
        tolerance: the residual that is small enough; the value's own error is about its square over the gap to the next one.
        seed: of the start.

    Source: Golub and Van Loan, Matrix Computations, 4th edition, section 10.1.
    """
    conv = convolution(layer)
    shape = (conv.channels, *size)
    start = torch.randn(math.prod(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    steps = min(steps, len(start))
    basis = start.new_empty(steps + 1, len(start))
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    vector = start
    for step in range(steps):
        image = _gram(conv, basis[step], shape)
        diagonal.append(float(basis[step] @ image))
        before = basis[: step + 1]
        for _ in range(2):
            image = image - before.T @ (before @ image)
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        for i, value in enumerate(beside):
            tridiagonal[i, i + 1] = tridiagonal[i + 1, i] = value
        values, vectors = torch.linalg.eigh(tridiagonal)
        length, largest = float(image.norm()), float(values[-1])
        vector = before.T @ vectors[:, -1]
        if length * abs(float(vectors[-1, -1])) <= tolerance * largest or length <= SPENT * largest:
            break
        beside.append(length)
        basis[step + 1] = image / length
    vector = vector / vector.norm()
    value = float(apply(conv, vector.reshape(1, *shape)).norm())
    defect = float((_gram(conv, vector, shape) - value**2 * vector).norm())
    return Estimate(value, defect / value**2 if value > 0 else 0.0, len(diagonal))


def _gram(conv: Convolution, vector: Tensor, shape: tuple[int, int, int]) -> Tensor:
    return apply_adjoint(conv, apply(conv, vector.reshape(1, *shape)), shape[1:]).flatten()
