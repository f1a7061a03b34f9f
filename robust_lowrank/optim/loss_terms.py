"""Penalties on a network act on cores, weights or factors, and join the loss's gradients."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers import trained_layers
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.layers.forms import Dense
from robust_lowrank.layers.merging import fit_to_slot
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import tangent
from robust_lowrank.optim.factor_grads import join
from robust_lowrank.penalties import Penalty


def penalty_targets(model: nn.Module, layers: Iterable[FactoredLayer], penalty: Penalty) -> list[Any]:
    """Return the factored layers, or the parameters, that a penalty acts on."""
    targets: list[Any]
    if penalty.on == "cores":
        targets = [layer for layer in layers if layer.bases()]
    elif penalty.on == "factors":
        targets = [factor for _, layer in trained_layers(model) for factor in layer.free_factors()]
    else:
        targets = [module.weight for module in model.modules() if isinstance(module, Dense) and module.weight.requires_grad]
        targets += [layer.core for layer in layers if not layer.bases()]
    if not targets:
        raise UserError(f"a penalty on {penalty.on} finds none in this network; penalties act on cores, weights or factors")
    return targets


def add_penalty(target: FactoredLayer | nn.Parameter, penalty: Penalty, weight: float) -> None:
    """Add a penalty's gradient; of a core also what its projections on the bases are, as of a term of the weight."""
    if not isinstance(target, FactoredLayer):
        if target.grad is not None:
            target.grad += weight * penalty.gradient(target.detach())
    elif target.core.grad is not None:
        used = target.used_factors().core
        gradient = torch.zeros_like(target.core)
        gradient[tuple(map(slice, used.shape))] = weight * penalty.gradient(used)
        add_gradient(target, gradient)


def add_gradient(layer: FactoredLayer, gradient: Tensor) -> None:
    """Add the gradient of a function of a layer's core, and its projections on the bases."""
    parts = tangent.of_core(layer.factors(), gradient) if layer.bases() else Factors(gradient, ())
    for parameter, part in zip((layer.core, *layer.bases()), join(parts), strict=True):
        if parameter.grad is not None:
            stored = fit_to_slot(part, parameter) if part.ndim == 2 else part
            parameter.grad += part if stored is None else stored
