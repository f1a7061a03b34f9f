"""A description says how a network's layers are factored, and another network is made to have such layers."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import nn

from robust_lowrank.candidates import blocks_of, places_of
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, ChainLayer, FactoredLayer, MergedLayer
from robust_lowrank.layers.forms import Dense, Source, build, form_of
from robust_lowrank.layers.linear import is_transposed
from robust_lowrank.layers.merged import Block, Place, install_merged, merged_parameters, put_back
from robust_lowrank.layers.network import UPDATE, put, shown_name
from robust_lowrank.methods import Method, Vanilla, named


def describe(model: nn.Module) -> dict[str, Any]:
    """Return by name what `admit` needs to know of each factored layer: its method, ranks, and where it stands."""
    described = {}
    adapters = {f"{name}.{UPDATE}": module for name, module in model.named_modules() if isinstance(module, Adapter)}
    for path, module in model.named_modules():
        if not isinstance(module, FactoredLayer):
            continue
        name = shown_name(path)
        described[name] = {"method": _described(module), "ranks": module.ranks()}
        if name in adapters:
            described[name]["alpha"] = adapters[name].alpha
        if isinstance(module, MergedLayer):
            described[name] |= _whereabouts(path, module)
    return described


def _described(layer: FactoredLayer) -> dict[str, Any]:
    method: Method = Vanilla() if layer.method is None else layer.method
    return {"name": method.name, **asdict(method)}  # pyright: ignore[reportArgumentType]


def _whereabouts(path: str, layer: MergedLayer) -> dict[str, Any]:
    """Return the parameter that a merged layer belongs to, the label of its block, and its factor in an adapter."""
    stem, _, rest = path.rpartition("parametrizations.")
    parameter, _, label, *update = rest.split(".")
    return {"parameter": f"{stem}{parameter}", "block": label} | ({"alpha": layer.alpha} if update else {})


def admit(model: nn.Module, described: dict[str, Any], undo: ExitStack) -> None:
    """Have layers with the methods of a description in a network, their factors still to be filled.

    Layers that are there keep their parameters; others are put in, and `undo` is told how to take them out.

    Raises:
        UserError: the description does not fit the network, which is then as it was.
    """
    merged: dict[str, dict[str, Any]] = {}
    actions: list[Callable[[ExitStack], None]] = []
    for name, entry in described.items():
        if not isinstance(entry, dict):
            raise UserError(f"the description of layer {name!r} is none")
        if "parameter" in entry:
            merged.setdefault(str(entry["parameter"]), {})[str(entry.get("block"))] = entry
        else:
            actions.append(_admit_chain(model, name, entry))
    actions += [_admit_merged(model, parameter, blocks) for parameter, blocks in merged.items()]
    for act in actions:
        act(undo)


def _admit_chain(model: nn.Module, name: str, entry: dict[str, Any]) -> Callable[[ExitStack], None]:
    """Return what admits a layer that is a chain."""
    adapter = "alpha" in entry
    place = name.removesuffix(f".{UPDATE}") if adapter else name
    old: Any = dict(model.named_modules()).get(place)
    names = [each for each, module in model.named_modules(remove_duplicate=False) if module is old]
    layer = old.base if isinstance(old, Adapter) else old.dense_layer() if isinstance(old, ChainLayer) else old
    if isinstance(old, ChainLayer) and old.bias is not None:
        layer.bias = old.bias
    if not isinstance(layer, Dense) and not is_transposed(layer):
        raise UserError(f"it has no linear layer or convolution {place!r}")
    built, alpha = _blank(name, layer, entry, bias=not adapter)  # pyright: ignore[reportArgumentType]
    present = old.update if adapter and isinstance(old, Adapter) else old
    if type(present) is type(built):
        return partial(_retain, [(present, built)], [] if not adapter else [(old, alpha)])
    new = Adapter(layer, built, alpha=alpha) if adapter else built  # pyright: ignore[reportArgumentType]
    if isinstance(old, Adapter) and not adapter and layer.bias is not None:
        layer.bias.requires_grad_(True)  # the file's network is none whose weights are frozen

    def replace(undo: ExitStack) -> None:
        for each in names:
            undo.callback(put, model, each, old)
            put(model, each, new)

    return replace


def _admit_merged(model: nn.Module, name: str, blocks: dict[str, Any]) -> Callable[[ExitStack], None]:
    """Return what admits the blocks of a parameter."""
    path, _, parameter = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    adapter = any("alpha" in entry for entry in blocks.values())
    stand_in = None if module is None else merged_parameters(module).get(parameter)
    if module is not None and stand_in is not None:
        present = stand_in.blocks()
        if stand_in.adapter != adapter or present.keys() != blocks.keys():
            raise UserError(f"the parameter {name!r} is factored in another way: load into the dense network")
        found = {label: Block([Place(module, parameter)], layer.dense_weight().detach(), 0) for label, layer in present.items()}
    else:
        tensor = None if module is None else module._parameters.get(parameter)
        if tensor is None:
            raise UserError(f"it has no parameter {name!r}")
        found, present = blocks_of(places_of(model, tensor), tensor), {}
    if found.keys() != blocks.keys():
        raise UserError(f"the parameter {name!r} has the blocks {', '.join(found)}, not {', '.join(blocks)}")
    built: dict[str, MergedLayer] = {}
    for label, block in found.items():
        built[label], built[label].alpha = _blank(f"{name}.{label}", block, blocks[label])
    if present and all(type(present[label]) is type(built[label]) for label in built):
        return partial(_retain, [(present[label], built[label]) for label in built], [])
    if present:
        raise UserError(f"the parameter {name!r} has factors of another form: load into the dense network")
    first = next(iter(found.values()))

    def replace(undo: ExitStack) -> None:
        for owner, attribute, _ in first.places:
            undo.callback(put_back, owner, attribute, getattr(owner, attribute), list(owner._parameters), type(owner))
        install_merged(first.places, built, adapter=adapter)

    return replace


def _retain(pairs: list[tuple[Any, Any]], adapters: list[tuple[Any, float]], undo: ExitStack) -> None:
    """Give layers that stay the methods, and adapters the factors, of others."""
    for layer, other in pairs:
        undo.callback(setattr, layer, "method", layer.method)
        layer.method = other.method
        if isinstance(layer, MergedLayer):
            undo.callback(setattr, layer, "alpha", layer.alpha)
            layer.alpha = other.alpha
    for adapter, alpha in adapters:
        undo.callback(setattr, adapter, "alpha", adapter.alpha)
        adapter.alpha = alpha


def _blank(name: str, layer: Source, entry: dict[str, Any], *, bias: bool = True) -> tuple[Any, float]:
    """Return the factored layer that an entry describes, all zero, and its factor in an adapter."""
    try:
        options = dict(entry["method"])
        method = named(options.pop("name"))(**options)
        factors = form_of(method).blank(layer, tuple(int(rank) for rank in entry["ranks"]))
        return build(layer, factors, method, bias=bias), float(entry.get("alpha", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the description of layer {name!r} does not fit this network") from error
