"""A factored network has parameter groups, and amortised steps a window."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.methods import GalerkinMethod


def parameter_groups(model: nn.Module, layers: dict[str, FactoredLayer]) -> list[dict[str, Any]]:
    """Return the groups `dense`, `cores` and `bases`, without those that are empty."""
    cores = [layer.core for layer in layers.values()]
    bases = [basis for layer in layers.values() for basis in layer.bases()]
    factors = {id(parameter) for parameter in (*cores, *bases)}
    others = [parameter for parameter in model.parameters() if id(parameter) not in factors and parameter.requires_grad]
    groups = [
        {"params": others, "name": "dense"},
        {"params": cores, "name": "cores"},
        {"params": bases, "name": "bases", "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError("the network has no parameters to train")
    return groups


def window_of(step: str, window: int | None, layers: Iterable[FactoredLayer]) -> int:
    """Return the window that is asked for, or the longest of the methods' own.

    Raises:
        UserError: exact steps have none, or it is too short for a method.
    """
    methods = [layer.method for layer in layers if isinstance(layer.method, GalerkinMethod)]
    if window is None:
        return max((method.window for method in methods), default=0)
    if step == "exact":
        raise UserError(f'window = {window} belongs to step="amortised"; an exact step ends with a truncation')
    if not isinstance(window, int) or window < 0:
        raise UserError(f"window = {window} is not a number of steps: give an integer from 0")
    for method in methods:
        if window < method.shortest_window:
            raise UserError(
                f"window = {window} leaves {method.name} no core step in its new bases: give at least {method.shortest_window}"
            )
    return window
