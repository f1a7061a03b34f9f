"""Adapters have files of their own, one each, with the updates alone."""

import json
import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from robust_lowrank.adapters.switching import require_names
from robust_lowrank.admission import admit, describe
from robust_lowrank.checkpoint import HEADER, misfits, read
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.installation import undoing
from robust_lowrank.layers import Adapter, adapted_parts
from robust_lowrank.layers.network import DEFAULT
from robust_lowrank.layers.updates import check_name, slot_of
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import replacing
from robust_lowrank.submodules import uncompiled


def save_adapter(model: nn.Module, path: str | Path, name: str = DEFAULT) -> None:
    """Write the updates of one adapter, and nothing else of the network, for `load_adapter`.

    What trains beside the updates, such as a head, is the network's: `save(model, path, frozen=False)` writes that too.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8))
        >>> report = adapt(net, rank=2, name="german")
        >>> save_adapter(net, "/tmp/german.safetensors", "german")

    Raises:
        UserError: the network has no adapter of that name.
    """
    model = uncompiled(model)
    require_names(model, [name])
    state = model.state_dict()
    tensors = {key: state[key].detach().cpu().contiguous().clone() for key in sorted(_keys(model, name))}
    layers = {key: entry for key, entry in describe(model).items() if entry.get("adapter") == name}
    header = {"version": 1, "adapter": name, "layers": layers, "adapted": _digest(model, name)}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(header)})


def load_adapter(model: nn.Module, path: str | Path, *, name: str | None = None) -> None:
    """Read the adapter of a file into the network that it was made for, in place: it alone takes part then, and trains.

    A network without adapters is frozen, as `adapt` freezes it.

    Args:
        path: a file that `save_adapter` wrote.
        name: what the adapter is to be called here; by default as in the file.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8))
        >>> report = adapt(net, rank=2, name="german")
        >>> save_adapter(net, "/tmp/german.safetensors", "german")
        >>> load_adapter(net, "/tmp/german.safetensors", name="swiss")
        >>> net[0].names, net[0].active
        (('german', 'swiss'), ('swiss',))

    Raises:
        UserError: it is no such file, it does not fit the network, or the network has an adapter of that name. The network is then
            as it was.
    """
    model, path = uncompiled(model), Path(path)
    header, tensors = read(path)
    if "adapter" not in header:
        raise UserError(f"{path} holds a network, or what of it has trained, and no adapter alone: take rlr.load")
    former = check_name(header["adapter"])
    name = check_name(former if name is None else name)
    if any(name in part.names for _, part in adapted_parts(model)):
        raise UserError(f"the network has an adapter {name!r}: give another name, or delete_adapter that first")
    old, new = f".{slot_of(former)}", f".{slot_of(name)}"
    try:
        with undoing() as undo:
            adapted = any(adapted_parts(model))
            for parameter in model.parameters():
                undo.callback(parameter.requires_grad_, parameter.requires_grad)
                parameter.requires_grad_(adapted and parameter.requires_grad)
            admit(model, {_moved(key, old, new): _entry(entry, name) for key, entry in header["layers"].items()}, undo)
            for path_of, part in adapted_parts(model):
                part.activate([name])
                _frozen(model, path_of, part).requires_grad_(False)
            found = {_moved(key, old, new): tensor for key, tensor in tensors.items()}
            expected = model.state_dict()
            if wrong := sorted(_keys(model, name) ^ found.keys()) or misfits(model, expected, expected | found):
                raise UserError(f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}")
            if header.get("adapted") != _digest(model, name):
                warnings.warn(f"{path} was made for other frozen weights than those of this network", stacklevel=2)
            model.load_state_dict(found, strict=False)
    except (UserError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit this network: {first_line(error)}") from error


def _entry(entry: Any, name: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or "alpha" not in entry:
        raise UserError("it describes a layer that is no update")
    return entry | {"adapter": name, "active": True}


def _moved(key: str, old: str, new: str) -> str:
    """Return the name of an update, or of a tensor of one, in another slot."""
    place, found, rest = f"{key}.".rpartition(f"{old}.")
    return f"{place}{new}.{rest}".removesuffix(".") if found else key


def _keys(model: nn.Module, name: str) -> set[str]:
    """Return the names of an adapter's tensors in the state of a network."""
    updates = {id(layer) for _, part in adapted_parts(model) if name in part.names for layer in part.layers_of(name)}
    modules = model.named_modules(remove_duplicate=False)
    return {f"{path}.{key}" for path, layer in modules if id(layer) in updates for key in layer.state_dict()}


def _frozen(model: nn.Module, path: str, part: nn.Module) -> nn.Parameter:
    """Return the frozen weight that a part updates."""
    return (
        part.base.get_parameter("weight")
        if isinstance(part, Adapter)
        else model.get_parameter(f"{path.rpartition('.')[0]}.original")
    )


def _digest(model: nn.Module, name: str) -> str:
    """Return the SHA-256 of the frozen weights that an adapter updates."""
    return digest_tensors({path: _frozen(model, path, part) for path, part in adapted_parts(model) if name in part.names})
