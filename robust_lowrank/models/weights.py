"""Foreign weights are read as tensors only, from safetensors or torch files; nothing in them is executed."""

import pickle
import re
import tarfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from robust_lowrank import checkpoint
from robust_lowrank.containers import check_safetensors
from robust_lowrank.errors import UserError, first_line, shown
from robust_lowrank.exporting.thin import take_thin
from robust_lowrank.installation import undoing
from robust_lowrank.models.files import contents, require_file, stored_members

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".model", ".bin", ".ckpt", ".tar")
WRAPPERS = (  # keys under which training scripts keep the weights, and averages of them
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema",
)  # fmt: skip
DEEPEST = 4  # wrappers within one another
COMPILED = "_orig_mod."  # of torch.compile, anywhere in a name
PARALLEL = "module."  # of nn.DataParallel
SHOWN = 4  # names in an error
LONGEST_NAME, MOST_PARTS = 500, 60  # of a tensor
LARGEST_PICKLE = 64 << 20  # bytes that say which tensors a file of torch holds


def load_weights(model: nn.Module, path: Path, *, kept: Collection[str] = ()) -> None:
    """Read weights into a network whose keys and shapes they must match one by one, except for those `kept` as they are.

    Names may have a prefix that all share, such as `module.` or `model.`, and `_orig_mod.` of compiled networks anywhere.

    Files that this package wrote may hold factored layers, or chains of thin ones, which then replace those of the network.

    Example:
        >>> torch.save({"state_dict": nn.DataParallel(nn.Linear(2, 2)).state_dict()}, "/tmp/net.pth")
        >>> load_weights(nn.Linear(2, 2), Path("/tmp/net.pth"))

    Raises:
        UserError: there is no such file, it holds more than tensors, or it does not fit the network.
    """
    tensors = read_weights(path)
    if kept and tensors.keys() & set(kept):
        raise UserError(f"{path} has {', '.join(kept)} of its own: the network normalises by itself, leave --mean and --std away")
    if is_safetensors(path) and checkpoint.HEADER in _header(path):
        checkpoint.load(model, path)
    else:
        _fit(model, tensors, path, kept)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, unwrapped from `state_dict`, `model_state_dict`, `model`, `net` and the like.

    Raises:
        UserError: there is no such file, it is not one of weights alone, or it holds several networks.
    """
    if is_safetensors(path):
        _header(path)
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    elif path.suffix.lower() in TORCH_SUFFIXES:
        tensors = _state(_torch_load(path), path)
    else:
        raise UserError(f"{path} is no file of weights by its name: those end in .safetensors, {', '.join(TORCH_SUFFIXES)}")
    _require_plain(tensors, path)
    return tensors


def is_safetensors(path: Path) -> bool:
    """Return whether a file is one of safetensors by its name."""
    return path.suffix.lower() == ".safetensors"


def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without what compiling and running in parallel put before their names, however often.

    Example:
        >>> list(bare({"_orig_mod.module.fc.weight": torch.ones(1)}))
        ['fc.weight']
    """
    names = {
        key: "".join(part for part in re.split(rf"(?<![^.])({re.escape(COMPILED)})", key) if part != COMPILED) for key in tensors
    }
    while names and all(name.startswith(PARALLEL) for name in names.values()):
        names = {key: name.removeprefix(PARALLEL) for key, name in names.items()}
    unique = len(set(names.values())) == len(names) and "" not in names.values()
    return {names[key]: tensor for key, tensor in tensors.items()} if unique else tensors


def _header(path: Path) -> dict[str, str]:
    require_file(path, "weights")
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file, or it is damaged: {first_line(error)}") from error


def _torch_load(path: Path) -> Any:
    if (inside := contents(require_file(path, "weights"))) in ("TorchScript", "exported program"):
        raise UserError(f"{path} holds a whole network ({inside}), not weights for one: give it as the model, without weights")
    for name, member in stored_members(path).items():
        if name.endswith("/data.pkl") and member.file_size > LARGEST_PICKLE:
            raise UserError(
                f"{path} needs {member.file_size:,} bytes to say which tensors it holds, more than any network: refused"
            )
    with path.open("rb") as file:
        begin = file.read(9)
    if begin[8:] == b"{":
        raise UserError(f"{path} is a safetensors file by what it holds: let its name end in .safetensors")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} holds more than tensors{f' ({shown(called[1])[:80]})' if called else ''}, "
            "and unpacking that could run any code: refused\n"
            "Where you trust the file, write its state_dict alone: safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, MemoryError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
            ArithmeticError, tarfile.TarError) as error:  # fmt: skip
        reason = type(error).__name__ if "weights_only" in str(error) else first_line(error)  # torch's hints are to switch it off
        raise UserError(f"{path} is not a file of weights that torch can read, or it is damaged: {reason}") from error


def _state(value: Any, path: Path) -> dict[str, Tensor]:
    found = _states(value)
    if not found:
        what = f"keys {_enumerate(sorted(map(str, value)))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise UserError(
            f"{path} holds no state_dict, alone or under {', '.join(WRAPPERS[:4])} and the like, but {what}: "
            "save model.state_dict() and give that"
        )
    (place, state), *others = found.items()
    if any(not _same(state, other) for _, other in others):
        taken = f"torch.load({path.name!r}, weights_only=True)" + "".join(f"[{key!r}]" for key in place)
        raise UserError(
            f"{path} holds several networks: {', '.join('.'.join(each) for each in found)}\n"
            f"Write the one that you mean, such as torch.save({taken}, 'net.pth'), and give that"
        )
    return {str(key): tensor for key, tensor in state.items()}


def _states(value: Any, depth: int = 0) -> dict[tuple[str, ...], Mapping[Any, Tensor]]:
    """Return the state dicts within a value, by the keys that lead to them."""
    if not isinstance(value, Mapping) or not value:
        return {}
    if all(isinstance(tensor, Tensor) for tensor in value.values()):
        return {(): value}
    inner = {key: _states(value.get(key), depth + 1) for key in WRAPPERS} if depth < DEEPEST else {}
    return {(key, *place): state for key, states in inner.items() for place, state in states.items()}


def _same(ours: Mapping[Any, Tensor], theirs: Mapping[Any, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def _require_plain(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Require numbers that are all in the file, under names that modules can have.

    Raises:
        UserError: a tensor is sparse, quantised or without values, declares more numbers than it has, or has such a name.
    """
    storages = {}
    for key, tensor in tensors.items():
        name = shown(key)[:80]
        if len(key) > LONGEST_NAME or key.count(".") >= MOST_PARTS:
            raise UserError(f"{path} has a tensor under a name that no network has, {name!r}")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = "quantised" if tensor.is_quantized else "without values" if tensor.is_meta else str(tensor.layout)
            raise UserError(f"{path} has the tensor {name!r}, which is {kind}: weights are dense numbers; save them as such")
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            raise UserError(f"{path} has the tensor {name!r} of shape {tuple(tensor.shape)}, which is more than it holds: refused")
    if sum(storages.values()) > path.stat().st_size:
        raise UserError(f"{path} is damaged: it declares more numbers than it holds")


def _fit(model: nn.Module, tensors: dict[str, Tensor], path: Path, kept: Collection[str]) -> None:
    tensors = _named_alike(tensors, model.state_dict().keys())
    with undoing() as undo:
        try:
            take_thin(model, tensors, undo)
        except UserError as error:
            raise UserError(f"{path} does not fit this network: {error}") from error
        _fill(model, tensors, path, kept)


def _named_alike(tensors: dict[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """Return tensors without the prefixes that all of their names have, and none of the network's."""
    if not any(COMPILED in name or name.startswith(PARALLEL) for name in names):
        tensors = bare(tensors)
    while tensors:
        prefix = next(iter(tensors)).partition(".")[0] + "."
        if any(name.startswith(prefix) for name in names) or not all(key.startswith(prefix) and key != prefix for key in tensors):
            return tensors
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: Path, kept: Collection[str]) -> None:
    expected = {key: tensor for key, tensor in model.state_dict().items() if key not in kept}
    shapes = [
        f"{key} {tuple(tensor.shape)} instead of {tuple(expected[key].shape)}"
        for key, tensor in tensors.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    kinds = [
        f"{key} {tensor.dtype} instead of {expected[key].dtype}"
        for key, tensor in tensors.items()
        if key in expected and not checkpoint.same_kind(tensor, expected[key])
    ]
    try:
        missing, unexpected = ([], []) if shapes or kinds else model.load_state_dict(tensors, strict=False)
        missing = [key for key in missing if key not in kept]
    except RuntimeError as error:
        raise UserError(f"{path} does not fit this network: {first_line(error)}") from error
    lists = {"missing": missing, "not in the network": unexpected, "of another shape": shapes, "of another type": kinds}
    if any(lists.values()):
        wrong = "; ".join(f"{len(names)} {what}: {_enumerate(names)}" for what, names in lists.items() if names)
        raise UserError(
            f"{path} does not fit this network: {wrong}\n"
            "Give the architecture, the input shape and the number of classes that these weights were trained with"
        )


def _enumerate(names: list[str]) -> str:
    return ", ".join(shown(name)[:120] for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
