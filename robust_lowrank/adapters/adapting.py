"""Frozen weights get updates, which train in their stead."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.candidates import is_of_peft
from robust_lowrank.choices import Choices, pattern
from robust_lowrank.compression import CompressionReport, Plan, make_plan, report_of
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.initialisation import leading_factors, zero_factors
from robust_lowrank.installation import by_parameter, undoing
from robust_lowrank.layers import Adapter, ChainLayer, FactoredLayer, adapted_parts, named_factored_layers
from robust_lowrank.layers.base import Start
from robust_lowrank.layers.forms import Source, build, form_of
from robust_lowrank.layers.merged import Block, install_merged, merged_parameters, put_back
from robust_lowrank.layers.network import DEFAULT
from robust_lowrank.layers.updates import check_name
from robust_lowrank.linalg import FactorisationError, Factors, Ranks
from robust_lowrank.methods import Method, resolve
from robust_lowrank.optim.misfits import watch
from robust_lowrank.ranks import RankLike
from robust_lowrank.submodules import put, uncompiled


def adapt(
    model: nn.Module,
    *,
    method: str | Method = "geolora",
    rank: RankLike = 8,
    alpha: float = 1.0,
    exclude: Choices = (),
    include: Choices | None = None,
    trainable: Sequence[str] = (),
    name: str = DEFAULT,
) -> CompressionReport:
    """Freeze a network and add a low-rank update to its matrices, in place: W_pre + alpha U S V^T.

    An update starts at zero with random bases; where the method bounds its condition number or divides by its core (CondLR), at the
    admissible part of the leading singular triplets of W_pre, which is subtracted from it: W_pre + alpha (U S V^T - U0 S0 V0^T).
    So the function stays the same, and W_pre as it is.

    Args:
        model: a network with trained weights.
        method: a name such as `geolora`, or an object; it bounds and truncates the update, not the merged weight.
        rank: as in `compress`.
        alpha: the factor of every update, whatever becomes of its rank; `lora` divides it by the rank.
        exclude: as in `compress`: what gets no update and stays frozen.
        include: likewise the only ones that get an update, such as `r".*\\.(q_proj|v_proj)"`.
        trainable: regular expressions of parameters that train beside the updates, such as `head\\..*`, but for weights that
            are adapted.
        name: of the updates. A network may get several, of different names, methods and ranks: the new ones alone are active
            then (`set_adapter`).

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> adapt(net, method="geolora", rank=2, exclude=["2"], trainable=[r"2\\..*"]).ranks
        {'0.update': 2}

    Raises:
        UserError: as `compress`; also a method that keeps weights whole, an alpha that is not a positive number, a pattern of
            `trainable` that matches no parameter, or layers that have an update of that name. The network is then as it was.

    Source: Hu et al. 2021, arXiv 2106.09685 (LoRA); Schotthöfer et al., ICLR 2025, arXiv 2410.18720 (GeoLoRA).
    """
    model = uncompiled(model)
    check_name(name)
    require_ranked(method)
    require_none_of_peft(model)
    plan = make_plan(model, method, rank, exclude, include, use="adapter", adding=name)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not 0 < alpha < math.inf:
        raise UserError(f"alpha = {alpha!r} must be a positive number")
    trained = parameters_named(model, trainable)
    updates: dict[str, FactoredLayer] = {}
    for candidate in plan.targets:
        try:
            updates[candidate.name] = new_update(candidate.layer, plan.ranks[candidate.name], plan.method, alpha)
        except FactorisationError as error:
            raise UserError(
                f"layer {candidate.name!r} cannot be adapted by {plan.method.name}: {error}. Exclude it, or take a method "
                "without a bound"
            ) from error
    with undoing() as undo:
        install_updates(model, plan, updates, name, trained, undo)
    watch(updates.values(), ())
    return report_of(model, plan, dict.fromkeys(dict(named_factored_layers(model)), 0.0))


def require_ranked(method: str | Method) -> None:
    """Raise a `UserError` if a method keeps weights whole."""
    if not (resolved := resolve(method)).ranked:
        raise UserError(f"{resolved.name} has no low-rank update to train: take compress, or another method")


def require_none_of_peft(model: nn.Module) -> None:
    """Raise a `UserError` if a network has layers of PEFT, whose adapters would be frozen."""
    for name, module in model.named_modules():
        if is_of_peft(module):
            raise UserError(
                f"{name!r} is a layer of PEFT, whose adapter would be frozen: take the network without it (unload or "
                "merge_and_unload), and rlr.from_peft to train on what PEFT saved"
            )


def parameters_named(model: nn.Module, patterns: Sequence[str]) -> set[int]:
    """Return the identities of the parameters whose names regular expressions match.

    Raises:
        UserError: one is none, or matches nothing.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise UserError(f"trainable = {patterns!r} must be a list of regular expressions")
    named = dict(model.named_parameters())
    found: set[int] = set()
    for each in (pattern(text, "trainable") for text in patterns):
        matched = {id(parameter) for name, parameter in named.items() if each.fullmatch(name)}
        if not matched:
            raise UserError(f"trainable {each.pattern!r} matches no parameter; there are: {', '.join(list(named)[:8])} ...")
        found |= matched
    return found


@torch.no_grad()
def new_update(layer: Source, ranks: Ranks, method: Method, alpha: float) -> FactoredLayer:
    """Return an update that changes nothing yet.

    Raises:
        FactorisationError: the method cannot start from the layer's weight.
    """
    tensor = form_of(method).weight(layer)
    scale = alpha / ranks[0] if method.adapter else alpha
    if method.needs_start:
        update = build(layer, method.project(leading_factors(tensor / scale, ranks)), method, bias=False)
        update.start = Start(update.factors())
    else:
        update = build(layer, zero_factors(tensor, ranks), method, bias=False)
        update.wake()
    update.alpha = scale
    return update


@torch.no_grad()
def update_from(layer: Source, left: Tensor, right: Tensor, method: Method, scale: float, rank: int | None = None) -> FactoredLayer:
    """Return the update that adds left right^T (n, m), cut at a rank if it is given; one of zero is new, of as many columns.

    Where the method bounds its condition number, its factors are the nearest that it allows, and the difference is subtracted.

    Raises:
        FactorisationError: the method cannot start from it.
    """
    weight = form_of(method).weight(layer)
    (u, a), (v, b) = (linalg.qr(linalg.in_float64(half.to(weight.device))) for half in (left / scale, right))
    p, sigma, qh = linalg.svd(a @ b.T)
    rank = min(len(sigma), rank or len(sigma))
    if not bool(sigma.any()):
        return new_update(layer, (rank, rank), method, scale * rank if method.adapter else scale)
    bases = ((u @ p[:, :rank]).to(weight), (v @ qh[:rank].T).to(weight))
    factors = Factors(sigma[:rank].diag().to(weight), bases)
    begun = method.project(factors)
    update = build(layer, begun, method, bias=False)
    update.alpha = scale
    if method.needs_start:
        update.start = Start(Factors(begun.core - factors.core, bases))
    return update


def install_updates(
    model: nn.Module, plan: Plan, updates: Mapping[str, FactoredLayer], name: str, trained: set[int], undo: ExitStack
) -> None:
    """Freeze a network but for some parameters, and give what a plan names its updates, which alone are active then.

    Raises:
        UserError: something in the network lets nothing be put in.
    """
    adapted = {id(candidate.layer.weight) for candidate in plan.targets if not isinstance(candidate.layer, Block)}
    for parameter in model.parameters():
        undo.callback(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad_(id(parameter) in trained - adapted)
    for _, part in adapted_parts(model):
        undo.callback(part.activate, part.active)
    for candidate in plan.targets:
        update = updates[candidate.name]
        if isinstance(update, ChainLayer):
            _install_chain(model, candidate.names, candidate.layer, update, name, undo)
    for block, layers in by_parameter(plan.targets, updates):
        owner, parameter, _ = block.places[0]
        if (stand_in := merged_parameters(owner).get(parameter)) is not None:
            undo.callback(stand_in.drop, name)
            stand_in.add(name, list(layers.values()))
            continue
        for module, parameter, _ in block.places:
            original = getattr(module, parameter)
            undo.callback(put_back, module, parameter, original, list(module._parameters), type(module))
            original.requires_grad_(False)
        try:
            install_merged(block.places, layers, adapter=name)
        except (TypeError, KeyError, AttributeError, RuntimeError) as error:  # of classes that let nothing be put in
            raise UserError(f"the updates cannot be put into the network: {first_line(error)}") from error
    for _, part in adapted_parts(model):
        part.activate([name])


def _install_chain(model: nn.Module, places: Sequence[str], layer: Source, update: ChainLayer, name: str, undo: ExitStack) -> None:
    present = model.get_submodule(places[0])
    if isinstance(present, Adapter):
        undo.callback(present.drop, name)
        present.add(name, [update])
        return
    adapter = Adapter(layer, update, name=name)  # pyright: ignore[reportArgumentType]
    for place in places:
        undo.callback(put, model, place, adapter.base)
        put(model, place, adapter)
