"""The gradient of the cross-entropy with respect to the input."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Slope(NamedTuple):
    """Logits and the gradient of the cross-entropy with respect to the input."""

    logits: Tensor
    gradient: Tensor
    finite: Tensor  # (N,) bool: all logits and all of the gradient are finite


def slope(model: nn.Module, x: Tensor, y: Tensor) -> Slope:
    """Return logits and the input gradient of each example's own cross-entropy."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, y, reduction="sum"), leaf)
    logits = logits.detach()
    return Slope(logits, gradient, logits.isfinite().all(dim=1) & gradient.isfinite().flatten(1).all(dim=1))
