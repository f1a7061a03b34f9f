"""Weights live in safetensors; ranks and method travel in the header, and nothing in a file is executed."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_lowrank.candidates import blocks_of, places_of
from robust_lowrank.compression import put
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.layers import Adapter, ChainLayer, MergedLayer, named_factored_layers
from robust_lowrank.layers.base import UPDATE, FactoredLayer, shown_name
from robust_lowrank.layers.forms import Dense, Source, build, form_of
from robust_lowrank.layers.linear import is_transposed
from robust_lowrank.layers.merged import install_merged, merged_parameters, uninstall_merged
from robust_lowrank.methods import Method, Vanilla, named
from robust_lowrank.methods.bases import decompose, truncate
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import replacing

HEADER = "robust_lowrank"


def save(model: nn.Module, path: str | Path, *, frozen: bool = True) -> None:
    """Write a network's weights, its factored layers at their present ranks.

    Args:
        frozen: whether to write frozen parameters too. Without them the file of an adapted network holds its adapters alone, and is
            loaded into the network that they were made for. Adapters that took a part of the frozen weight, as those of CondLR do,
            keep it in their file.

    Example:
        >>> save(nn.Linear(2, 2), "/tmp/net.safetensors")
    """
    layers = describe(model)
    left_out = set() if frozen else _frozen(model)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items() if key not in left_out}
    header = {"version": 1, "layers": layers} | ({} if frozen else {"without": sorted(left_out)})
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(header)})


def load(model: nn.Module, path: str | Path, *, rank: int | float | None = None) -> nn.Module:
    """Read weights into a network of the same architecture, dense or factored, and return it.

    What the file holds as factors is replaced in place.

    Args:
        rank: cut the factors at fewer leading directions, an int or a fraction of the rank that each layer has in the file.

    Raises:
        UserError: there is no such file, it is not one that `save` wrote, it does not fit the network, or the rank is below 1.
    """
    path = Path(path)
    header, tensors = _read(path)
    try:
        admit(model, header["layers"])
        expected = model.state_dict()
        tensors |= {key: expected[key] for key in header.get("without", ()) if key in expected}
        if wrong := sorted(expected.keys() ^ tensors.keys()):
            raise UserError(f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}")
        model.load_state_dict(tensors)
    except (UserError, RuntimeError) as error:
        raise UserError(f"{path} does not fit this network: {first_line(error)}") from error
    if rank is not None:
        for name, layer in named_factored_layers(model):
            cut(name, layer, rank)
    return model


@torch.no_grad()
def cut(name: str, layer: FactoredLayer, rank: int | float) -> None:
    """Leave a layer its leading directions: so many, or a fraction of those that it has.

    Raises:
        UserError: that is below 1, or a fraction outside (0, 1].
    """
    fraction = isinstance(rank, float)
    if isinstance(rank, bool) or not (0 < rank <= 1 if fraction else rank >= 1):
        raise UserError(f"rank = {rank!r} at which to cut layer {name!r} is neither an integer from 1 nor a fraction in (0, 1]")
    factors = layer.used_factors() if layer.bases() else None
    if factors is None:
        return
    ranks = tuple(min(each, math.ceil(rank * each) if fraction else int(rank)) for each in layer.ranks())
    layer.set_factors(truncate(factors, decompose(factors), ranks))


def _frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that an adapted network has from elsewhere."""
    changed = {
        f"{path.removesuffix(f'.{UPDATE}')}.base.weight" if isinstance(layer, ChainLayer) else _original(path)
        for path, layer in model.named_modules()
        if isinstance(layer, FactoredLayer) and layer.method is not None and layer.method.needs_start
    }
    factors = {id(factor) for _, layer in named_factored_layers(model) for factor in layer.all_factors()}
    names = {
        name for name, each in model.named_parameters(remove_duplicate=False) if not each.requires_grad and id(each) not in factors
    }
    return names - changed


def _original(path: str) -> str:
    """Return the name of the frozen parameter beside which a merged update stands."""
    stem, _, rest = path.rpartition("parametrizations.")
    return f"{stem}parametrizations.{rest.partition('.')[0]}.original"


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


def described(path: str | Path) -> dict[str, Any] | None:
    """Return what a file says of its factored layers, by name; None if this package did not write it.

    Raises:
        UserError: another version of this package wrote it.
    """
    with safe_open(path, framework="pt") as file:
        written_here = HEADER in (file.metadata() or {})
    return _read(Path(path))[0]["layers"] if written_here else None


def digest(model: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of a network's state."""
    return digest_tensors(model.state_dict())


def _described(layer: FactoredLayer) -> dict[str, Any]:
    method: Method = Vanilla() if layer.method is None else layer.method
    return {"name": method.name, **asdict(method)}  # pyright: ignore[reportArgumentType]


def _whereabouts(path: str, layer: MergedLayer) -> dict[str, Any]:
    """Return the parameter that a merged layer belongs to, the label of its block, and its factor in an adapter."""
    stem, _, rest = path.rpartition("parametrizations.")
    parameter, _, label, *update = rest.split(".")
    return {"parameter": f"{stem}{parameter}", "block": label} | ({"alpha": layer.alpha} if update else {})


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: there are no weights to load") from error
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a file of weights that robust-lowrank wrote ({type(error).__name__})") from error
    if not isinstance(header, dict) or header.get("version") != 1 or not isinstance(header.get("layers"), dict):
        raise UserError(f"{path} was written by another version of robust-lowrank")
    return header, tensors


def admit(model: nn.Module, described: dict[str, Any]) -> None:
    """Put layers with the methods and ranks of a description, their factors still to be filled, in the place of the network's.

    Raises:
        UserError: the description does not fit the network.
    """
    merged: dict[str, dict[str, Any]] = {}
    for name, entry in described.items():
        if not isinstance(entry, dict):
            raise UserError(f"the description of layer {name!r} is none")
        if "parameter" in entry:
            merged.setdefault(str(entry["parameter"]), {})[str(entry.get("block"))] = entry
        else:
            _admit_chain(model, name, entry)
    for parameter, blocks in merged.items():
        _admit_merged(model, parameter, blocks)


def _admit_chain(model: nn.Module, name: str, entry: dict[str, Any]) -> None:
    place = name.removesuffix(f".{UPDATE}") if "alpha" in entry else name
    old = dict(model.named_modules()).get(place)
    names = [each for each, module in model.named_modules(remove_duplicate=False) if module is old]
    layer = old.base if isinstance(old, Adapter) else old.dense_layer() if isinstance(old, ChainLayer) else old
    if not isinstance(layer, Dense) and not is_transposed(layer):
        raise UserError(f"it has no linear layer or convolution {place!r}")
    built, alpha = _blank(name, layer, entry, bias="alpha" not in entry)  # pyright: ignore[reportArgumentType]
    for each in names:
        put(model, each, Adapter(layer, built, alpha=alpha) if "alpha" in entry else built)  # pyright: ignore[reportArgumentType]


def _admit_merged(model: nn.Module, name: str, blocks: dict[str, Any]) -> None:
    path, _, parameter = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if module is not None and parameter in merged_parameters(module):
        uninstall_merged(module, parameter)
    tensor = None if module is None else module._parameters.get(parameter)
    if tensor is None:
        raise UserError(f"it has no parameter {name!r}")
    found = blocks_of(places_of(model, tensor), tensor)
    if found.keys() != blocks.keys():
        raise UserError(f"the parameter {name!r} has the blocks {', '.join(found)}, not {', '.join(blocks)}")
    built: dict[str, MergedLayer] = {}
    for label, block in found.items():
        built[label], alpha = _blank(f"{name}.{label}", block, blocks[label])
        built[label].alpha = alpha
    (first, *_), adapter = found.values(), any("alpha" in entry for entry in blocks.values())
    install_merged(first.places, built, adapter=adapter)


def _blank(name: str, layer: Source, entry: dict[str, Any], *, bias: bool = True) -> tuple[Any, float]:
    """Return the factored layer that an entry describes, all zero, and its factor in an adapter."""
    try:
        options = dict(entry["method"])
        method = named(options.pop("name"))(**options)
        factors = form_of(method).blank(layer, tuple(int(rank) for rank in entry["ranks"]))
        return build(layer, factors, method, bias=bias), float(entry.get("alpha", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the description of layer {name!r} does not fit this network") from error
