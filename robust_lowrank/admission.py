"""A description says how a network's layers are factored, and another network is made to have such layers."""

from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from torch import nn

from robust_lowrank.candidates import blocks_of, places_of
from robust_lowrank.choices import joined
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, ChainLayer, FactoredLayer, MergedLayer, adapted_parts
from robust_lowrank.layers.base import Start
from robust_lowrank.layers.forms import Dense, Source, build, form_of
from robust_lowrank.layers.linear import is_transposed
from robust_lowrank.layers.merged import Block, Place, install_merged, merged_parameters, put_back
from robust_lowrank.layers.network import DEFAULT, owner_of, shown_name
from robust_lowrank.layers.updates import Updated, check_name, slot_of
from robust_lowrank.methods import Method, Vanilla, named
from robust_lowrank.submodules import put


def describe(model: nn.Module) -> dict[str, Any]:
    """Return by name what `admit` needs to know of each factored layer: its method, ranks, and where it stands."""
    updates = {id(layer): (part, name) for _, part in adapted_parts(model) for name in part.names for layer in part.layers_of(name)}
    described = {}
    for path, module in model.named_modules():
        if not isinstance(module, FactoredLayer):
            continue
        entry = described[shown_name(path)] = {"method": _described(module), "ranks": module.ranks()}
        if id(module) in updates:
            part, name = updates[id(module)]
            entry |= {"alpha": module.alpha, "adapter": name, "active": name in part.active}
        if module.start is not None:
            entry["start"] = [basis.shape[1] for basis in module.start.factors().bases]
        if isinstance(module, MergedLayer):
            entry |= _whereabouts(path)
    return described


def _described(layer: FactoredLayer) -> dict[str, Any]:
    method: Method = Vanilla() if layer.method is None else layer.method
    return {"name": method.name, **asdict(method)}  # pyright: ignore[reportArgumentType]


def _whereabouts(path: str) -> dict[str, Any]:
    """Return the parameter that a merged layer belongs to, and the label of its block."""
    owner, parameter = owner_of(path)
    return {"parameter": joined(owner, parameter), "block": path.rpartition("parametrizations.")[2].split(".")[2]}


def admit(model: nn.Module, described: dict[str, Any], undo: ExitStack) -> None:
    """Have layers with the methods of a description in a network, their factors still to be filled.

    Layers that are there keep their parameters; others are put in. `undo` is told how to take back what is done.

    Raises:
        UserError: the description does not fit the network.
    """
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    active: dict[Updated, list[str]] = {}
    for _, part in adapted_parts(model):
        undo.callback(part.activate, part.active)
    for name, entry in described.items():
        if not isinstance(entry, dict):
            raise UserError(f"the description of layer {name!r} is none")
        if "parameter" in entry:
            merged.setdefault((str(entry["parameter"]), _adapter_of(entry)), {})[str(entry.get("block"))] = entry
        else:
            active.setdefault(_admit_chain(model, name, entry, undo), []).extend(_active(entry))
    for (parameter, name), blocks in merged.items():
        active.setdefault(_admit_merged(model, parameter, name, blocks, undo), []).extend(_active(next(iter(blocks.values()))))
    for part, names in active.items():
        if isinstance(part, Updated):
            part.activate(names)


def _adapter_of(entry: dict[str, Any]) -> str:
    """Return the name of the adapter that an update belongs to; empty if the entry describes none."""
    return check_name(entry.get("adapter", DEFAULT)) if "alpha" in entry else ""


def _active(entry: dict[str, Any]) -> list[str]:
    return [_adapter_of(entry)] if entry.get("active", True) else []


def _admit_chain(model: nn.Module, name: str, entry: dict[str, Any], undo: ExitStack) -> Any:
    """Admit a layer that is a chain, and return it, or the adapter that has it."""
    adapter = _adapter_of(entry)
    place = name.removesuffix(f".{slot_of(adapter)}") if adapter else name
    old: Any = dict(model.named_modules()).get(place)
    names = [each for each, module in model.named_modules(remove_duplicate=False) if module is old]
    layer = old.base if isinstance(old, Adapter) else old.dense_layer() if isinstance(old, ChainLayer) else old
    if isinstance(old, ChainLayer) and old.bias is not None:
        layer.bias = old.bias
    if not isinstance(layer, Dense) and not is_transposed(layer):
        raise UserError(f"it has no linear layer or convolution {place!r}")
    built = _blank(name, layer, entry, bias=not adapter)  # pyright: ignore[reportArgumentType]
    present = old.updates().get(adapter) if adapter and isinstance(old, Adapter) else old
    if type(present) is type(built):
        _retain(present, built, undo)
        return old
    if adapter and isinstance(old, Adapter):
        _replace_update(old, adapter, [built], undo)
        return old
    new = Adapter(layer, built, name=adapter) if adapter else built  # pyright: ignore[reportArgumentType]
    if isinstance(old, Adapter) and layer.bias is not None:
        layer.bias.requires_grad_(True)  # the file's network is none whose weights are frozen
    for each in names:
        undo.callback(put, model, each, old)
        put(model, each, new)
    return new


def _admit_merged(model: nn.Module, name: str, adapter: str, blocks: dict[str, Any], undo: ExitStack) -> Any:
    """Admit the blocks of a parameter, and return what stands for it."""
    path, _, parameter = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    stand_in = None if module is None else merged_parameters(module).get(parameter)
    if module is not None and stand_in is not None:
        if stand_in.adapter != bool(adapter) or set(stand_in.labels) != blocks.keys():
            raise UserError(f"the parameter {name!r} is factored in another way: load into the dense network")
        present = stand_in.blocks(adapter if adapter in stand_in.names else stand_in.names[0] if adapter else DEFAULT)
        found = {label: Block([Place(module, parameter)], layer.dense_weight().detach(), 0) for label, layer in present.items()}
    else:
        tensor = None if module is None else module._parameters.get(parameter)
        if tensor is None:
            raise UserError(f"it has no parameter {name!r}")
        found, present = blocks_of(places_of(model, tensor), tensor), {}
    if found.keys() != blocks.keys():
        raise UserError(f"the parameter {name!r} has the blocks {', '.join(found)}, not {', '.join(blocks)}")
    built: dict[str, MergedLayer] = {label: _blank(f"{name}.{label}", block, blocks[label]) for label, block in found.items()}
    if stand_in is not None and adapter and adapter not in stand_in.names:
        _replace_update(stand_in, adapter, list(built.values()), undo)
        return stand_in
    if present and all(type(present[label]) is type(built[label]) for label in built):
        for label in built:
            _retain(present[label], built[label], undo)
        return stand_in
    if present:
        raise UserError(f"the parameter {name!r} has factors of another form: load into the dense network")
    first = next(iter(found.values()))
    for owner, attribute, _ in first.places:
        undo.callback(put_back, owner, attribute, getattr(owner, attribute), list(owner._parameters), type(owner))
    return install_merged(first.places, built, adapter=adapter or None)


def _replace_update(part: Updated, name: str, layers: list[Any], undo: ExitStack) -> None:
    """Give a part an update, in the place of the one of that name if it has one."""
    if name in part.names:
        undo.callback(part.add, name, part.layers_of(name))
        part.drop(name)
    undo.callback(part.drop, name)
    part.add(name, layers)


def _retain(layer: Any, other: Any, undo: ExitStack) -> None:
    """Give a layer that stays the method of another one, and an update what is beside its factors."""
    for attribute in ("method", "alpha", "start"):
        undo.callback(setattr, layer, attribute, getattr(layer, attribute))
        setattr(layer, attribute, getattr(other, attribute))


def _blank(name: str, layer: Source, entry: dict[str, Any], *, bias: bool = True) -> Any:
    """Return the factored layer that an entry describes, all zero."""
    try:
        options = dict(entry["method"])
        method = named(options.pop("name"))(**options)
        form = form_of(method)
        built = build(layer, form.blank(layer, tuple(int(rank) for rank in entry["ranks"])), method, bias=bias)
        built.alpha = float(entry.get("alpha", 1.0))
        if "start" in entry:
            built.start = Start(form.blank(layer, tuple(int(rank) for rank in entry["start"])))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"the description of layer {name!r} does not fit this network") from error
    return built
