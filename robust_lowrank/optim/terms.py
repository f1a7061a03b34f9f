"""Penalties on a network: what they act on, and how their gradients join those of the loss."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.penalties import Penalty


def penalised(model: nn.Module, layers: Iterable[FactoredLayer], penalty: Penalty) -> list[Any]:
    """Return the factored layers, or the parameters, that a penalty acts on."""
    found: list[Any]
    if penalty.on == "cores":
        found = [layer for layer in layers if layer.bases()]
    elif penalty.on == "factors":
        found = [factor for _, layer in named_factored_layers(model) for factor in layer.free_factors()]
    else:
        dense = (nn.Linear, nn.Conv2d)
        found = [module.weight for module in model.modules() if isinstance(module, dense) and module.weight.requires_grad]
        found += [layer.core for layer in layers if not layer.bases()]
    if not found:
        raise UserError(f"a penalty on {penalty.on} finds none in this network; penalties act on cores, weights or factors")
    return found


def add_penalty(target: FactoredLayer | nn.Parameter, penalty: Penalty, weight: float) -> None:
    """Add a penalty's gradient, and on a matrix core what its projections on the bases are, as of a term of the weight."""
    parameter = target.core if isinstance(target, FactoredLayer) else target
    if parameter.grad is None:
        return
    gradient = weight * penalty.gradient(parameter.detach())
    parameter.grad += gradient
    if isinstance(target, FactoredLayer) and gradient.ndim == 2:
        for basis, part in zip(target.bases(), (gradient, gradient.T), strict=True):
            if basis.grad is not None:
                basis.grad += basis.detach() @ part
