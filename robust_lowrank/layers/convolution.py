"""Convolutions take kernels of any strides in memory, and under `torch.compile` kernels of any number of channels.

Inductor compiles its convolutions anew for each number of channels. Where that is a rank which is left open, the graph gets
operators of ours, which inductor calls as they are.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_lowrank.layers.compiling import is_open

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class ConvGeometry(NamedTuple):
    """Stride, zero padding and dilation of a convolution, each one number a direction in which its kernel slides."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def point(slides: int) -> ConvGeometry:
    """Return the geometry of a pointwise convolution of signals with so many directions."""
    return ConvGeometry((1,) * slides, (0,) * slides, (1,) * slides)


def convolve(x: Tensor, kernel: Tensor, geometry: ConvGeometry) -> Tensor:
    """Return the convolution of x (B, Cin, ...) with a kernel (F, Cin, ...) of any strides in memory."""
    x, kernel = _laid_out(x, kernel, geometry)
    if is_open(*kernel.shape[:2]):
        return _open_convolution(x, kernel, *geometry)
    return CONVOLUTIONS[kernel.dim() - 2](x, kernel, None, *geometry)


def convolution_gradients(delta: Tensor, x: Tensor, kernel: Tensor, geometry: ConvGeometry, *, wanted: tuple[bool, bool]) -> Any:
    """Return the gradients of the input and of the kernel that are wanted, and None for others, from that of the convolution."""
    x, kernel = _laid_out(x, kernel, geometry)
    delta = delta.contiguous()
    if is_open(*kernel.shape[:2]):
        found = iter(_open_gradients(delta, x, kernel, *geometry, wanted))
        return tuple(next(found) if each else None for each in wanted)
    return _gradients(delta, x, kernel, geometry, wanted)


def _laid_out(x: Tensor, kernel: Tensor, geometry: ConvGeometry) -> tuple[Tensor, Tensor]:
    """Return both in a memory format that the convolution computes soundly.

    A kernel that comes of products and transpositions may have strides that pass for channels-last, which then decides for the
    images too; and oneDNN's channels-last weight gradient of a strided 1 x 1 kernel writes out of bounds (seen with torch 2.14).
    """
    kernel = kernel.reshape(-1).view(kernel.shape)  # a copy if its entries are in another order, and the strides of its shape
    strided_pointwise = kernel.shape[2:].numel() == 1 and set(geometry.stride) != {1}
    return x.contiguous() if strided_pointwise else x, kernel


def _gradients(delta: Tensor, x: Tensor, kernel: Tensor, geometry: ConvGeometry, wanted: Sequence[bool]) -> Any:
    return torch.ops.aten.convolution_backward(
        delta, x, kernel, None, *geometry, False, [0] * len(geometry.stride), 1, (*wanted, False)
    )[:2]


_GEOMETRY = "int[] stride, int[] padding, int[] dilation"


@torch.library.custom_op("robust_lowrank::convolution", mutates_args=(), schema=f"(Tensor x, Tensor kernel, {_GEOMETRY}) -> Tensor")
def _open_convolution(x: Tensor, kernel: Tensor, *geometry: Any) -> Tensor:
    return CONVOLUTIONS[kernel.dim() - 2](x, kernel, None, *geometry).contiguous()


@_open_convolution.register_fake
def _(x: Tensor, kernel: Tensor, *geometry: Any) -> Tensor:
    sizes = zip(x.shape[2:], kernel.shape[2:], *geometry, strict=True)
    slid = [(size + 2 * padding - dilation * (width - 1) - 1) // stride + 1 for size, width, stride, padding, dilation in sizes]
    return x.new_empty((x.shape[0], kernel.shape[0], *slid))


@torch.library.custom_op(
    "robust_lowrank::convolution_gradients",
    mutates_args=(),
    schema=f"(Tensor delta, Tensor x, Tensor kernel, {_GEOMETRY}, bool[] wanted) -> Tensor[]",
)
def _open_gradients(delta: Tensor, x: Tensor, kernel: Tensor, *geometry_and_wanted: Any) -> list[Tensor]:
    *geometry, wanted = geometry_and_wanted
    return [each.contiguous() for each in _gradients(delta, x, kernel, ConvGeometry(*geometry), wanted) if each is not None]


@_open_gradients.register_fake
def _(delta: Tensor, x: Tensor, kernel: Tensor, *geometry_and_wanted: Any) -> list[Tensor]:
    return [each.new_empty(each.shape) for each, need in zip((x, kernel), geometry_and_wanted[-1], strict=True) if need]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, kernel, *ctx.geometry = inputs
    ctx.save_for_backward(x, kernel)


def _differentiate(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[:2]
    found = iter(_open_gradients(delta.contiguous(), *ctx.saved_tensors, *ctx.geometry, wanted))
    return (*(next(found) if each else None for each in wanted), None, None, None)


_open_convolution.register_autograd(_differentiate, setup_context=_keep)
