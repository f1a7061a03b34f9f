"""A factored network has parameter groups, and amortised steps a window."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.methods import GalerkinMethod


def parameter_groups(
    model: nn.Module, layers: dict[str, FactoredLayer], given: Sequence[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return the groups `dense`, `cores` and `bases` that are not empty: first those of each given group, then of the rest.

    Raises:
        UserError: a given group is none, names a parameter twice or one that is not the network's, or nothing is left to train.
    """
    cores = {id(layer.core) for layer in layers.values()}
    bases = {id(basis) for layer in layers.values() for basis in layer.bases()}
    left = {id(parameter): parameter for parameter in model.parameters()}
    groups = []
    for group in given:
        if not isinstance(group, Mapping) or "params" not in group:
            raise UserError(
                f"groups holds {type(group).__name__}s without params: give dicts such as {{'params': [...], 'lr': 0.1}}"
            )
        listed: list[Any] = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        parameters: list[nn.Parameter] = [each[1] if isinstance(each, tuple) else each for each in listed]  # named ones too
        for parameter in parameters:
            if not isinstance(parameter, nn.Parameter):
                raise UserError("groups holds a tensor that is no parameter: of a factored layer give layer.all_factors()")
            if left.pop(id(parameter), None) is None:
                known = any(parameter is each for each in model.parameters())
                raise UserError(
                    "groups holds a parameter twice"
                    if known
                    else "groups holds a parameter that is not the network's: compress before making groups"
                )
        groups += _split(parameters, cores, bases, {key: value for key, value in group.items() if key != "params"})
    groups += _split(list(left.values()), cores, bases, {})
    if not groups:
        raise UserError("the network has no parameters to train")
    return groups


def _split(parameters: list[nn.Parameter], cores: set[int], bases: set[int], options: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the dense parameters, cores and bases of a group, each with its options; weight decay never touches the bases."""
    prefix = f"{options['name']} " if "name" in options else ""
    dense = [each for each in parameters if id(each) not in cores | bases and each.requires_grad]
    split = [
        {**options, "params": dense, "name": f"{prefix}dense"},
        {**options, "params": [each for each in parameters if id(each) in cores], "name": f"{prefix}cores"},
        {**options, "params": [each for each in parameters if id(each) in bases], "name": f"{prefix}bases", "weight_decay": 0.0},
    ]
    return [group for group in split if group["params"]]


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
