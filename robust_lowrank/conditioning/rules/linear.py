"""Rules of linear layers, convolutions, products with matrices, and batch normalisation."""

import math

import torch
from torch import Tensor

from robust_lowrank.conditioning.constants import Unbounded
from robust_lowrank.conditioning.operators.convolution import Convolution, pads, pair
from robust_lowrank.conditioning.operators.symbol import conv_bound
from robust_lowrank.conditioning.operators.table import normalisation_scale
from robust_lowrank.conditioning.rules.call import Call, magnitude


def matmul(call: Call) -> float:
    """Bound a product with a constant matrix, or with a batch of them, by the largest norm."""
    factors = ("self", "other", "mat2", "vec", "tensor")
    names = ("mat1", "mat2") if "addmm" in call.name else tuple(name for name in call.given if name in factors)
    call.only(*names)
    if len(call.bounds) == 2:
        raise Unbounded("a product of two values that both depend on the input")
    (varying,) = call.bounds
    (other,) = set(names) - {varying}
    matrix, x = call.given[other].double(), call.given[varying]
    if matrix.dim() == 1:
        return call.scaled(float(matrix.norm()), varying)
    batches = math.prod(call.value.shape[:-2]) / math.prod(x.shape[:-2]) if matrix.dim() > 2 and x.dim() > 1 else 1.0
    if matrix.dim() > 2 and x.dim() == 1:
        batches = math.prod(matrix.shape[:-2])
    constant = float(torch.linalg.matrix_norm(matrix, 2).max()) * math.sqrt(batches)
    return call.scaled(constant * abs(call.given.get("alpha", 1)), varying)


def linear(call: Call) -> float:
    """Bound a linear layer by the norm of its weight."""
    return call.scaled(conv_bound(linear_map(call), (1, 1)), "input")


def convolution(call: Call) -> float:
    """Bound a convolution on images of the size that it is given."""
    return call.scaled(conv_bound(linear_map(call), image_size(call)), "input")


def transposed(call: Call) -> float:
    """Bound a transposed convolution by the convolution of which it is the adjoint, on images of its own outputs' size."""
    weight = call.given["weight"]
    slides = weight.dim() - 2
    kernel, dilation = (
        weight.double().reshape(*weight.shape[:2], *[1] * (2 - slides), *weight.shape[2:]),
        pair(call.given["dilation"], slides, 1),
    )
    padding = pads(call.given["padding"], kernel, dilation, slides)
    conv = Convolution(kernel, pair(call.given["stride"], slides, 1), padding, dilation, call.given["groups"])
    return call.scaled(conv_bound(conv, _size(call.value.shape, slides)), "input")


def normalisation(call: Call) -> float:
    """Bound batch normalisation by its largest scale."""
    return call.scaled(magnitude(scale_of(call)), "input")


def linear_map(call: Call) -> Convolution:
    """Return the linear map of a call of `linear` or of a convolution, as its forward takes it."""
    call.only("input")
    weight = call.given["weight"].double()
    slides = weight.dim() - 2
    kernel = weight.reshape(*weight.shape[:2], *[1] * (2 - slides), *weight.shape[2:])
    if slides == 0:
        return Convolution(kernel)
    dilation = pair(call.given["dilation"], slides, 1)
    padding = pads(call.given["padding"], kernel, dilation, slides)
    return Convolution(kernel, pair(call.given["stride"], slides, 1), padding, dilation, call.given["groups"])


def image_size(call: Call) -> tuple[int, int]:
    """Return height and width of what a call of `linear`, (1, 1), or of a convolution slides over."""
    return _size(call.given["input"].shape, call.given["weight"].dim() - 2)


def scale_of(call: Call) -> Tensor:
    """Return by what a call of batch normalisation multiplies each channel.

    Raises:
        Unbounded: it takes its statistics from the batch.
    """
    call.only("input")
    variance = call.given.get("running_var")
    if call.given.get("training") or variance is None:
        raise Unbounded("without running statistics it mixes the examples of a batch")
    return normalisation_scale(variance, call.given["weight"], call.given["eps"])


def _size(shape: torch.Size, slides: int) -> tuple[int, int]:
    height, width = *[1] * (2 - slides), *shape[len(shape) - slides :]
    return height, width
