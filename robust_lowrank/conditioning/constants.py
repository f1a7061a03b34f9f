"""Activations and pooling layers have Lipschitz constants in L2."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMOOTH = 20  # the threshold from which softplus' step to the identity is rounding


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


# The largest slopes of gelu, of its approximation by tanh, and of silu are 1.128904..., 1.128993... and 1.099839...
GELU, SILU = 1.129, 1.0999

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], float]] = {
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.Tanh), lambda layer: 1.0),
    nn.LeakyReLU: lambda layer: max(1.0, abs(layer.negative_slope)),
    nn.ELU: lambda layer: max(1.0, abs(layer.alpha)),
    nn.GELU: lambda layer: GELU,
    nn.SiLU: lambda layer: SILU,
    nn.Softplus: lambda layer: softplus(layer.beta, layer.threshold),
    nn.Sigmoid: lambda layer: 0.25,
}
MEANS = (nn.AvgPool1d, nn.AvgPool2d)
MAXIMA = (nn.MaxPool1d, nn.MaxPool2d)
ADAPTIVE_MEANS = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)
ADAPTIVE_MAXIMA = (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d)
POOLS_1D = (nn.AvgPool1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)
POOLS = (*MEANS, *MAXIMA, *ADAPTIVE_MEANS, *ADAPTIVE_MAXIMA)


def pool_constant(pool: nn.Module, size: Sequence[int]) -> float:
    """Return the Lipschitz constant of a pooling layer on images of one size.

    Example:
        >>> pool_constant(nn.MaxPool2d(3, stride=2), (7, 7)), pool_constant(nn.AvgPool2d(2), (8, 8))
        (2.0, 0.5)

    Means are linear and separable: the product of the norms of one matrix a direction. Of maxima the squared change is at most
    the sum over windows of the squared changes in them, so an entry that lies in m windows counts m times: sqrt(m).

    Args:
        pool: one of `POOLS`.
        size: of the image: (H, W), or (L,) of a sequence.
    """
    constant = math.prod(_along(pool, extent, axis) for axis, extent in enumerate(size))
    divisor = getattr(pool, "divisor_override", None)
    return constant if divisor is None else constant * math.prod(_of(pool.kernel_size, axis) for axis in range(2)) / abs(divisor)


def _along(pool: nn.Module, extent: int, axis: int) -> float:
    units = torch.eye(extent, dtype=torch.float64)[:, None]
    if isinstance(pool, (*ADAPTIVE_MEANS, *ADAPTIVE_MAXIMA)):
        outputs = _of(pool.output_size, axis)
        means = F.adaptive_avg_pool1d(units, extent if outputs is None else outputs)[:, 0]
        return _norm(means) if isinstance(pool, ADAPTIVE_MEANS) else math.sqrt(int((means > 0).sum(dim=1).max()))
    assert isinstance(pool, (*MEANS, *MAXIMA))
    kernel, stride, padding = (_of(value, axis) for value in (pool.kernel_size, pool.stride, pool.padding))
    if isinstance(pool, MEANS):
        whole = pool.count_include_pad or getattr(pool, "divisor_override", None) is not None
        return _norm(F.avg_pool1d(units, kernel, stride, padding, pool.ceil_mode, whole)[:, 0])
    dilation = _of(pool.dilation, axis)
    outputs = F.max_pool1d(units[:1], kernel, stride, padding, dilation, pool.ceil_mode).shape[-1]
    positions = (torch.arange(outputs)[:, None] * stride - padding + torch.arange(kernel) * dilation).flatten()
    return math.sqrt(int(positions[(positions >= 0) & (positions < extent)].bincount().max()))


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def _of(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, tuple | list) else value
