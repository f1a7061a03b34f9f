"""Gradients of free factors as their method wants the optimizer to see them."""

from torch import nn

from robust_lowrank.layers import VanillaConv2d, VanillaLinear
from robust_lowrank.methods import ScaledLoRA


def precondition(model: nn.Module) -> None:
    """Replace the gradients of A and B where a method preconditions them."""
    for layer in model.modules():
        if not isinstance(layer, VanillaLinear | VanillaConv2d) or not isinstance(layer.method, ScaledLoRA):
            continue
        if layer.A.grad is not None and layer.B.grad is not None:
            layer.A.grad, layer.B.grad = layer.method.precondition(
                (layer.A.detach(), layer.B.detach()), (layer.A.grad, layer.B.grad)
            )
