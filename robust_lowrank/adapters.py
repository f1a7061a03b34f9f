"""Adapters train on frozen weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.choices import Choices, pattern
from robust_lowrank.compression import CompressionReport, make_plan, report_of
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.initialisation import leading_factors, zero_factors
from robust_lowrank.installation import by_parameter, undoing
from robust_lowrank.layers import Adapter, ChainLayer, FactoredLayer, MergedLayer, named_factored_layers
from robust_lowrank.layers.forms import Source, build, form_of
from robust_lowrank.layers.merged import Block, install_merged, put_back
from robust_lowrank.layers.network import put, uncompiled
from robust_lowrank.linalg import FactorisationError, Ranks
from robust_lowrank.methods import Method
from robust_lowrank.ranks import RankLike


def adapt(
    model: nn.Module,
    *,
    method: str | Method = "geolora",
    rank: RankLike = 8,
    alpha: float = 1.0,
    exclude: Choices = (),
    include: Choices | None = None,
    trainable: Sequence[str] = (),
) -> CompressionReport:
    """Freeze a network and add a low-rank update to its matrices, in place: W_pre + alpha U S V^T.

    The function stays the same. An update starts at zero with random bases; where the method bounds its condition number or divides
    by its core (CondLR), at the admissible part of the leading singular triplets of W_pre, which the frozen weight then lacks.

    Args:
        model: a network with trained weights.
        method: a name such as `geolora`, or an object; it bounds and truncates the update, not the merged weight.
        rank: as in `compress`.
        alpha: the factor of every update, whatever becomes of its rank; `lora` divides it by the rank.
        exclude: as in `compress`: what gets no update and stays frozen.
        include: likewise the only ones that get an update.
        trainable: regular expressions of parameters that train beside the updates, such as `head\\..*`, but for weights that
            are adapted.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> adapt(net, method="geolora", rank=2, exclude=["2"], trainable=[r"2\\..*"]).ranks
        {'0.update': 2}

    Raises:
        UserError: as `compress`; also a method that keeps weights whole, an alpha that is not a positive number, or a pattern of
            `trainable` that matches no parameter. The network is then as it was.

    Source: Hu et al. 2021, arXiv 2106.09685 (LoRA); Schotthöfer et al., ICLR 2025, arXiv 2410.18720 (GeoLoRA).
    """
    model = uncompiled(model)
    plan = make_plan(model, method, rank, exclude, include, use="adapter")
    if not plan.method.ranked:
        raise UserError(f"{plan.method.name} has no low-rank update to add: take compress, or another method")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise UserError(f"alpha = {alpha!r} must be a positive number")
    if isinstance(trainable, str) or not isinstance(trainable, Sequence):
        raise UserError(f"trainable = {trainable!r} must be a list of regular expressions")
    patterns = [pattern(text, "trainable") for text in trainable]
    names = [name for name, _ in model.named_parameters()]
    for each in patterns:
        if not any(each.fullmatch(name) for name in names):
            raise UserError(f"trainable {each.pattern!r} matches no parameter; there are: {', '.join(names[:8])} ...")
    updates: dict[str, _Update] = {}
    for candidate in plan.targets:
        name = candidate.name
        try:
            updates[name] = _update(candidate.layer, plan.ranks[name], plan.method, alpha)
        except FactorisationError as error:
            raise UserError(
                f"layer {name!r} cannot be adapted by {plan.method.name}: {error}. Exclude it, or take a method without a bound"
            ) from error
    trained = {id(each) for name, each in model.named_parameters() if any(entry.fullmatch(name) for entry in patterns)}
    adapted = {id(candidate.layer.weight) for candidate in plan.targets if not isinstance(candidate.layer, Block)}
    with undoing() as undo:
        for parameter in model.parameters():
            undo.callback(parameter.requires_grad_, parameter.requires_grad)
            parameter.requires_grad_(id(parameter) in trained - adapted)
        for candidate in plan.targets:
            update, scale, taken = updates[candidate.name]
            if taken is not None:
                undo.callback(_give_back, candidate.layer, candidate.layer.weight.detach().clone(), taken)
                _take(candidate.layer, taken)
            if isinstance(update, ChainLayer):
                adapter = Adapter(candidate.layer, update, alpha=scale)  # pyright: ignore[reportArgumentType]
                for name in candidate.names:
                    undo.callback(put, model, name, adapter.base)
                    put(model, name, adapter)
            elif isinstance(update, MergedLayer):
                update.alpha = scale
        for block, layers in by_parameter(plan.targets, {name: each.layer for name, each in updates.items()}):
            for module, parameter, _ in block.places:
                original = getattr(module, parameter)
                undo.callback(put_back, module, parameter, original, list(module._parameters), type(module))
                original.requires_grad_(False)
            try:
                install_merged(block.places, layers, adapter=True)
            except (TypeError, KeyError, AttributeError, RuntimeError) as error:  # of classes that let nothing be put in
                raise UserError(f"the updates cannot be put into the network: {first_line(error)}") from error
    return report_of(model, plan, dict.fromkeys(dict(named_factored_layers(model)), 0.0))


class _Update(NamedTuple):
    """The update of a layer, its factor, and what the frozen weight gives to it."""

    layer: FactoredLayer
    scale: float
    taken: Tensor | None


@torch.no_grad()
def _update(layer: Source, ranks: Ranks, method: Method, alpha: float) -> _Update:
    tensor = form_of(method).weight(layer)
    scale = alpha / ranks[0] if method.adapter else alpha
    if not method.needs_start:
        update = build(layer, zero_factors(tensor, ranks), method, bias=False)
        update.wake()
        return _Update(update, scale, None)
    update = build(layer, method.project(leading_factors(tensor / scale, ranks)), method, bias=False)
    return _Update(update, scale, scale * update.dense_weight())


@torch.no_grad()
def _give_back(layer: Source, weight: Tensor, taken: Tensor) -> None:
    """Undo what `_take` did."""
    if isinstance(layer, Block):
        layer.subtract(-taken)
    else:
        layer.weight.copy_(weight)


@torch.no_grad()
def _take(layer: Source, taken: Tensor) -> None:
    """Take from a frozen weight what its update starts with."""
    if isinstance(layer, Block):
        layer.subtract(taken)
    else:
        layer.weight -= taken.to(layer.weight.dtype)
