"""Adapters train on frozen weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.compression import CompressionReport, count_parameters, install, make_plan
from robust_lowrank.errors import UserError
from robust_lowrank.initialisation import leading_factors, zero_factors
from robust_lowrank.layers import Adapter, FactoredLayer, named_factored_layers
from robust_lowrank.layers.forms import Dense, build, form_of
from robust_lowrank.linalg import FactorisationError, Ranks
from robust_lowrank.methods import Method
from robust_lowrank.ranks import RankLike, pattern


def adapt(
    model: nn.Module,
    *,
    method: str | Method = "geolora",
    rank: RankLike = 8,
    alpha: float = 1.0,
    exclude: Sequence[str] = (),
    trainable: Sequence[str] = (),
) -> CompressionReport:
    """Freeze a network and add a low-rank update to its linear layers and convolutions, in place: W_pre + alpha U S V^T.

    The function stays the same. An update starts at zero with random bases; where the method bounds its condition number or divides
    by its core (CondLR), at the admissible part of the leading singular triplets of W_pre, which the frozen weight then lacks.

    Args:
        model: a network with trained weights.
        method: a name such as `geolora`, or an object; it bounds and truncates the update, not the merged weight.
        rank: as in `compress`.
        alpha: the factor of every update, whatever becomes of its rank; `lora` divides it by the rank.
        exclude: regular expressions; a layer whose full name matches one gets no update and stays frozen.
        trainable: regular expressions of parameters that train beside the updates, such as `head\\..*`.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> adapt(net, method="geolora", rank=2, exclude=["2"], trainable=[r"2\\..*"]).ranks
        {'0.update': 2}

    Raises:
        UserError: as `compress`; also a method that keeps weights whole, an alpha that is not a positive number, or a pattern of
            `trainable` that matches no parameter. The network is then as it was.

    Source: Hu et al. 2021, arXiv 2106.09685 (LoRA); Schotthöfer et al., ICLR 2025, arXiv 2410.18720 (GeoLoRA).
    """
    plan = make_plan(model, method, rank, exclude, use="adapter")
    if not plan.method.ranked:
        raise UserError(f"{plan.method.name} has no low-rank update to add: take compress, or another method")
    if not 0 < alpha < math.inf:
        raise UserError(f"alpha = {alpha} must be a positive number")
    patterns = [pattern(text, "trainable") for text in trainable]
    names = [name for name, _ in model.named_parameters()]
    for each in patterns:
        if not any(each.fullmatch(name) for name in names):
            raise UserError(f"trainable {each.pattern!r} matches no parameter; there are: {', '.join(names[:8])} ...")
    updates = {}
    for name, layer in plan.targets:
        try:
            updates[name] = _update(layer, plan.ranks[name], plan.method, alpha)
        except FactorisationError as error:
            raise UserError(
                f"layer {name!r} cannot be adapted by {plan.method.name}: {error}. Exclude it, or take a method without a bound"
            ) from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(each.fullmatch(name) for each in patterns))
    for name, layer in plan.targets:
        update, scale, taken = updates[name]
        if taken is not None:
            layer.weight.data -= taken
        install(model, name, Adapter(layer, update, alpha=scale))
    factored = dict(named_factored_layers(model))
    return CompressionReport(
        ranks={name: layer.rank for name, layer in factored.items()},
        kept_dense=plan.kept,
        relative_error=dict.fromkeys(factored, 0.0),
        parameters=count_parameters(model),
    )


class _Update(NamedTuple):
    """The update of a layer, its factor, and what the frozen weight gives to it."""

    layer: FactoredLayer
    scale: float
    taken: Tensor | None


@torch.no_grad()
def _update(layer: Dense, ranks: Ranks, method: Method, alpha: float) -> _Update:
    tensor = form_of(method).weight(layer)
    scale = alpha / ranks[0] if method.adapter else alpha
    if math.isinf(method.cond_bound) and not method.inverts:
        update = build(layer, zero_factors(tensor, ranks), method, bias=False)
        update.wake()
        return _Update(update, scale, None)
    update = build(layer, method.project(leading_factors(tensor / scale, ranks)), method, bias=False)
    return _Update(update, scale, (scale * update.dense_weight()).to(layer.weight.dtype))
