"""Activations and pooling have Lipschitz constants in L2."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTH = 20  # the threshold from which softplus' step to the identity is rounding

# The largest slopes, rounded up: of gelu 1.128904..., of its approximation by tanh 1.128993..., silu 1.099839..., mish 1.088498...,
# of selu 1.0507... * 1.6732... = 1.758099..., of the error function 2 / sqrt(pi) = 1.128379...
GELU, SILU, MISH, SELU, ERF = 1.129, 1.0999, 1.0885, 1.7581, 1.1284
HARDSWISH = 1.5  # at 3
HARDSIGMOID = 0.1666667  # 1 / 6, of which torch takes the nearest float32


class Unbounded(Exception):
    """There is no constant, and the message says why."""


def softplus(beta: float, threshold: float) -> float:
    """Return the constant of softplus, which jumps to the identity where beta x is at the threshold.

    Raises:
        Unbounded: the jump is to be seen.
    """
    if threshold < SMOOTH or beta <= 0:
        raise Unbounded(f"softplus with threshold {threshold} jumps")
    return 1.0


def mean_norm(
    extent: int, kernel: int, stride: int, padding: int, *, ceil_mode: bool = False, count_include_pad: bool = True
) -> float:
    """Return the norm of means over windows along one direction.

    Example:
        >>> round(mean_norm(8, 2, 2, 0), 6)
        0.707107
    """
    return _norm(F.avg_pool1d(_units(extent), kernel, stride, padding, ceil_mode, count_include_pad)[:, 0])


def adaptive_mean_norm(extent: int, outputs: int) -> float:
    """Return the norm of means over as many windows as there are outputs, along one direction."""
    return _norm(F.adaptive_avg_pool1d(_units(extent), outputs)[:, 0])


def maximum_norm(extent: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil_mode: bool = False) -> float:
    """Return the constant of maxima over windows along one direction.

    The squared change is at most the sum over windows of the squared changes in them, so an entry that lies in m windows counts m
    times: sqrt(m).

    Example:
        >>> maximum_norm(7, 2, 2, 0, 1), maximum_norm(7, 4, 1, 0, 1)
        (1.0, 2.0)
    """
    outputs = F.max_pool1d(_units(extent)[:1], kernel, stride, padding, dilation, ceil_mode).shape[-1]
    positions = (torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation).flatten()
    return math.sqrt(int(positions[(positions >= 0) & (positions < extent)].bincount().max()))


def adaptive_maximum_norm(extent: int, outputs: int) -> float:
    """Return the constant of maxima over as many windows as there are outputs, along one direction."""
    means = F.adaptive_avg_pool1d(_units(extent), outputs)[:, 0]
    return math.sqrt(int((means > 0).sum(dim=1).max()))


def _units(extent: int) -> Tensor:
    return torch.eye(extent, dtype=torch.float64)[:, None]


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))
