"""Gradients of free factors as their method wants the optimizer to see them."""

from collections.abc import Iterable

from torch import nn

from robust_lowrank.layers import VanillaConv2d, VanillaLinear
from robust_lowrank.methods import ScaledLoRA

Pair = VanillaLinear | VanillaConv2d


def preconditioned(model: nn.Module) -> list[Pair]:
    """Return the layers of a network whose method preconditions the gradients of A and B."""
    return [layer for layer in model.modules() if isinstance(layer, Pair) and isinstance(layer.method, ScaledLoRA)]


def precondition(layers: Iterable[Pair]) -> None:
    """Replace the gradients of A and B."""
    for layer in layers:
        if layer.A.grad is not None and layer.B.grad is not None:
            factors, gradients = (layer.A.detach(), layer.B.detach()), (layer.A.grad, layer.B.grad)
            layer.A.grad, layer.B.grad = layer.method.precondition(factors, gradients)
