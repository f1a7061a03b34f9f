"""Clipping needs the norm of a network's weight gradient."""

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers import FactoredLayer, named_factored_layers
from robust_lowrank.linalg import at_least_float32
from robust_lowrank.methods import tangent
from robust_lowrank.optim.factor_grads import gradients
from robust_lowrank.optim.processes import whole
from robust_lowrank.optim.reduction import average_gradients, mark


@torch.no_grad()
def clip_grad_norm_(model: nn.Module, max_norm: float, *, error_if_nonfinite: bool = False) -> Tensor:
    """Scale all gradients of a network by one factor so that their norm is at most `max_norm`, and return the norm before.

    For a factored layer it is that of the gradient of its weight on the tangent space, ||P_T(G)||, whatever its bases; the slots of
    its factors share parts, so that `torch.nn.utils.clip_grad_norm_`, which adds them all up, finds more. For all else, and for
    factors that no method keeps orthonormal, it is torch's. Several processes average their gradients first.

    Args:
        model: after `backward`, and after the gradients have been unscaled if a gradient scaler is used.
        max_norm: a positive number; inf only measures.
        error_if_nonfinite: raise if the norm is not finite; this waits for the device.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> net(torch.tensor([[3.0, 4.0]])).sum().backward()
        >>> clip_grad_norm_(net, 1.0), net.weight.grad
        (tensor(5.), tensor([[0.6000, 0.8000]]))

    Raises:
        UserError: `max_norm` is not positive, no parameter has a gradient, or the norm is not finite.

    Source: methods, section 1.1: ||P_T(G)||^2 = ||dS||^2 + ||(I - U U^T) dK||^2 + ||(I - V V^T) dL||^2.
    """
    if not max_norm > 0:
        raise UserError(f"max_norm = {max_norm} is not positive: give the largest norm allowed")
    average_gradients(model)
    layers = [layer for _, layer in named_factored_layers(model) if layer.bases()]
    factors = {id(parameter) for layer in layers for parameter in (layer.core, *layer.bases())}
    squares = [square for layer in layers if (square := _square(layer)) is not None]
    others = [p.grad for p in model.parameters() if p.grad is not None and id(p) not in factors]
    squares += [whole(at_least_float32(grad).square().sum()) for grad in others]
    if not squares:
        raise UserError("no parameter has a gradient: call backward on a loss of this network first")
    norm = torch.stack([square.to(squares[0].device) for square in squares]).sum().sqrt()
    if error_if_nonfinite and not bool(torch.isfinite(norm)):
        raise UserError(f"the norm of the gradients is {float(norm)}: there is no factor that would clip them")
    factor = (max_norm / (norm + torch.finfo(norm.dtype).eps)).clamp(max=1)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(factor.to(parameter.grad.device, parameter.grad.dtype))
            mark(parameter.grad)
    return norm


def _square(layer: FactoredLayer) -> Tensor | None:
    """Return ||P_T(G)||^2 of a layer's weight; with gradients of the core alone, theirs."""
    if all(parameter.grad is None for parameter in (layer.core, *layer.bases())):
        return None
    return tangent.squared_norm(gradients(layer), layer.factors())
