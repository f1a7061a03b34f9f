"""A layer without a useful gradient is attacked through a stand-in that has one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class BPDA(nn.Module):
    """A layer that answers as it does and has the gradient of another one: backward pass differentiable approximation.

    Verdicts are of the layer itself, to the last bit; only attacks see the stand-in, and only its gradient. Put it in the place of
    what rounds, sorts, compresses or detaches.

    Args:
        layer: takes and returns one tensor.
        stand_in: differentiable, near the layer; without it the identity, for a layer that keeps the shape of its input.

    Example:
        >>> defended = nn.Sequential(BPDA(JPEG(quality=75)), classifier)
        >>> evaluate(defended, x, y, suite="standard", eps="8/255").robust_accuracy

    Source: Athalye, Carlini and Wagner 2018 (arXiv 1802.00420), section 4.1.
    """

    def __init__(self, layer: Callable[[Tensor], Tensor], stand_in: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.layer: Callable[[Tensor], Tensor] = layer
        self.stand_in: Callable[[Tensor], Tensor] | None = stand_in

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer returns."""
        return _Through.apply(x, self.layer, self.stand_in)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Any, stand_in: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.stand_in = stand_in
        with torch.no_grad():
            return layer(x).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        if ctx.stand_in is None:
            return gradient, None, None
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (through,) = torch.autograd.grad(ctx.stand_in(leaf), leaf, gradient)
        return through, None, None
