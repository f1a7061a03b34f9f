"""Several adapters make a new one."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from robust_lowrank.adapters.adapting import require_ranked, update_from
from robust_lowrank.adapters.switching import require_names, set_adapter
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, FactoredLayer, adapted_parts
from robust_lowrank.layers.forms import Source, form_of
from robust_lowrank.layers.halves import halves_of
from robust_lowrank.layers.merged import Block, MergedParameter, Place
from robust_lowrank.layers.network import owner_of
from robust_lowrank.layers.updates import Updated, check_name
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import Method, resolve
from robust_lowrank.submodules import uncompiled


@torch.no_grad()
def add_weighted_adapter(
    model: nn.Module,
    weights: Mapping[str, float],
    name: str,
    *,
    rank: int | None = None,
    method: str | Method = "geolora",
) -> None:
    """Add an adapter that is a weighted sum of others, which stay, and let it alone take part.

    The sum is exact: its rank is that of all updates together, until it is cut.

    Args:
        weights: the factors of the adapters, by their names.
        rank: leading directions that are kept of each sum; all if not given.
        method: what trains it from here.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8))
        >>> for each in ("german", "french"):
        ...     report = adapt(net, rank=2, name=each)
        >>> add_weighted_adapter(net, {"german": 0.7, "french": 0.3}, "both")
        >>> net[0].updates()["both"].rank
        4

    Raises:
        UserError: an adapter is missing or there is one of the new name, a weight or the rank is no number, or an update cannot be
            added up or be trained by the method. The network is then as it was.
    """
    model = uncompiled(model)
    check_name(name)
    require_ranked(method)
    resolved = resolve(method).with_defaults_for("adapter")
    require_names(model, list(weights))
    if any(name in part.names for _, part in adapted_parts(model)):
        raise UserError(f"the network has an adapter {name!r}: give another name, or delete_adapter it first")
    if not all(isinstance(weight, (int, float)) and math.isfinite(weight) for weight in weights.values()):
        raise UserError(f"weights = {dict(weights)!r} must be numbers by the names of adapters")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
        raise UserError(f"rank = {rank!r} is no whole number from 1")
    sums: list[tuple[Updated, list[FactoredLayer]]] = []
    for path, part in adapted_parts(model):
        if used := [each for each in weights if each in part.names]:
            parts = zip(_sources(model, path, part), *(part.layers_of(each) for each in used), strict=True)
            sums.append((part, [_sum(path, s, layers, [weights[each] for each in used], resolved, rank) for s, *layers in parts]))
    for part, layers in sums:
        part.add(name, layers)
    set_adapter(model, name)


def _sources(model: nn.Module, path: str, part: Updated) -> list[Source]:
    """Return what the updates of a part are built for, one for each block of its weight."""
    if isinstance(part, Adapter):
        return [part.base]
    assert isinstance(part, MergedParameter)
    owner, parameter = owner_of(path)
    blocks = part.blocks(part.names[0])
    place = Place(model.get_submodule(owner), parameter)
    return [Block([place], layer.dense_weight().to(layer.weight_dtype), 0) for layer in blocks.values()]


def _sum(
    path: str, source: Source, layers: list[FactoredLayer], weights: list[float], method: Method, rank: int | None
) -> FactoredLayer:
    if form_of(method).weight(source).dim() > 2:
        raise UserError(f"{method.name} keeps kernels in Tucker form, and sums of updates are none: take geolora")
    try:
        halves = [(w * left, right) for layer, w in zip(layers, weights, strict=True) for left, right in halves_of(layer)]
        left, right = (torch.cat(sides, 1) for sides in zip(*halves, strict=True))
        return update_from(source, left, right, method, 1.0, rank)
    except (UserError, FactorisationError) as error:
        raise UserError(f"the updates of {path!r} cannot be added up for {method.name}: {error}") from error
