"""Weights live in safetensors; ranks and method travel in the header, and nothing in a file is executed."""

import json
import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_lowrank.candidates import blocks_of, places_of
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.installation import undoing
from robust_lowrank.layers import Adapter, ChainLayer, MergedLayer, named_factored_layers
from robust_lowrank.layers.base import UPDATE, FactoredLayer, put, shown_name, uncompiled
from robust_lowrank.layers.forms import Dense, Source, build, form_of
from robust_lowrank.layers.linear import is_transposed
from robust_lowrank.layers.merged import Block, Place, install_merged, merged_parameters, put_back
from robust_lowrank.methods import Method, Vanilla, named
from robust_lowrank.methods.bases import decompose, truncate
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import replacing

HEADER = "robust_lowrank"


def save(model: nn.Module, path: str | Path, *, frozen: bool = True) -> None:
    """Write a network's weights, its factored layers at their present ranks.

    Args:
        frozen: whether to write frozen parameters too. Without them the file of an adapted network holds its adapters alone, and is
            loaded into the network that they were made for, whose other parameters are then frozen. Adapters that took a part of
            the frozen weight, as those of CondLR do, keep it in their file.

    Example:
        >>> save(nn.Linear(2, 2), "/tmp/net.safetensors")

    Raises:
        UserError: the network's state holds something else than tensors.
    """
    model = uncompiled(model)
    layers = describe(model)
    if odd := [key for key, value in model.state_dict().items() if not isinstance(value, Tensor)]:
        raise UserError(f"{odd[0]} of the network's state is no tensor, and a file of safetensors holds nothing else")
    left_out = set() if frozen else _frozen(model)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items() if key not in left_out}
    header: dict[str, Any] = {"version": 1, "layers": layers}
    if not frozen:
        header |= {"without": sorted(left_out), "base": _digest_of(model, left_out)}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(header)})


def load(model: nn.Module, path: str | Path, *, rank: int | float | None = None) -> nn.Module:
    """Read weights into a network of the same architecture, dense or factored, and return it.

    Layers that the file holds as factors are put in; those that are there already keep their parameters, and their optimizer.

    Args:
        rank: cut the factors at fewer leading directions, an int or a fraction of the rank that each layer has in the file.

    Raises:
        UserError: there is no such file, it is not one that `save` wrote, it does not fit the network, or the rank is below 1.
    """
    path = Path(path)
    number = isinstance(rank, (int, float)) and not isinstance(rank, bool)
    if rank is not None and not (number and (0 < rank <= 1 if isinstance(rank, float) else rank >= 1)):
        raise UserError(f"rank = {rank!r} at which to cut layers is neither an integer from 1 nor a fraction in (0, 1]")
    header, tensors = _read(path)
    given, model = model, uncompiled(model)
    try:
        if meta := [key for key, tensor in model.state_dict().items() if isinstance(tensor, Tensor) and tensor.is_meta]:
            raise UserError(f"{meta[0]} is on the meta device: call to_empty first")
        with undoing() as undo:
            admit(model, header["layers"], undo)
            expected = model.state_dict()
            tensors = {key: expected[key] for key in header["without"] if key in expected} | tensors
            wrong = sorted(expected.keys() ^ tensors.keys()) or _misfits(model, expected, tensors)
            if wrong:
                raise UserError(f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}")
            if (base := header.get("base")) is not None and base != _digest_of(model, header["without"]):
                warnings.warn(f"{path} was made for other frozen weights than those of this network", stacklevel=2)
            model.load_state_dict(tensors)
            for name, parameter in model.named_parameters(remove_duplicate=False):
                if name in header["without"]:
                    parameter.requires_grad_(False)
    except (UserError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit this network: {first_line(error)}") from error
    if rank is not None:
        _cut(model, rank, path)
    return given


def _misfits(model: nn.Module, expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that a network cannot take up; factors may have other ranks."""
    wrong = []
    factors: set[str] = set()
    for path, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, FactoredLayer):
            names = [f"{path}.{name}" for name in layer.names()]
            factors.update(names)
            if not layer.fits({name: tensors[key] for name, key in zip(layer.names(), names, strict=True)}):
                wrong += names
    return wrong + [key for key, tensor in tensors.items() if key not in factors and expected[key].shape != tensor.shape]


@torch.no_grad()
def _cut(model: nn.Module, rank: int | float, path: Path) -> None:
    """Leave all layers their leading directions: so many, or a fraction of those that each has."""

    def kept(size: int) -> int:
        return min(size, math.ceil(rank * size) if isinstance(rank, float) else rank)

    actions: list[Callable[[], None]] = []
    for name, layer in named_factored_layers(model):
        if not all(bool(torch.isfinite(factor).all()) for factor in layer.all_factors()):
            raise UserError(f"{path}: layer {name!r} holds NaN or infinity, and has no leading directions")
        if layer.bases():
            factors = layer.used_factors()
            actions.append(partial(layer.set_factors, truncate(factors, decompose(factors), tuple(map(kept, layer.ranks())))))
        else:
            actions.append(partial(layer.keep_leading, kept(layer.rank)))
    for act in actions:
        act()


def _digest_of(model: nn.Module, names: Iterable[str]) -> str:
    """Return the SHA-256 of those of a network's tensors."""
    state = model.state_dict()
    return digest_tensors({name: state[name] for name in names if name in state})


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
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a file of weights that robust-lowrank wrote ({type(error).__name__})") from error
    header = {"without": [], **header} if isinstance(header, dict) else {}
    sound = isinstance(header.get("layers"), dict) and isinstance(header["without"], list)
    if header.get("version") != 1 or not sound or not all(isinstance(key, str) for key in header["without"]):
        raise UserError(f"{path} was written by another version of robust-lowrank")
    return header, tensors


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
