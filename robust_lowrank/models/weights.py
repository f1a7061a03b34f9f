"""Foreign weights are read as tensors only, from safetensors or torch files; nothing in them is executed."""

import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from robust_lowrank import checkpoint
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.exporting.thin import take_thin
from robust_lowrank.installation import undoing
from robust_lowrank.models.files import contents, require_file

TORCH_SUFFIXES = (".pt", ".pth", ".th", ".model", ".bin", ".ckpt", ".tar")
WRAPPERS = ("state_dict", "model", "net")  # keys under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # of nn.DataParallel and torch.compile
SHOWN = 4  # names in an error


def load_weights(model: nn.Module, path: Path, *, kept: Collection[str] = ()) -> None:
    """Read weights into a network whose keys and shapes they must match one by one, except for those `kept` as they are.

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
    if path.suffix == ".safetensors" and checkpoint.HEADER in _header(path):
        checkpoint.load(model, path)
    else:
        _fit(model, tensors, path, kept)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name, unwrapped from `state_dict`, `model` or `net`.

    Raises:
        UserError: there is no such file, or it is not one of weights alone.
    """
    if path.suffix == ".safetensors":
        _header(path)
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if path.suffix not in TORCH_SUFFIXES:
        raise UserError(f"{path} is no file of weights by its name: those end in .safetensors, {', '.join(TORCH_SUFFIXES)}")
    return _state(_torch_load(path), path)


def _header(path: Path) -> dict[str, str]:
    require_file(path, "weights")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file, or it is damaged: {error}") from error


def _torch_load(path: Path) -> Any:
    if (inside := contents(require_file(path, "weights"))) in ("TorchScript", "exported program"):
        raise UserError(f"{path} holds a whole network ({inside}), not weights for one: give it as the model, without weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path} holds more than tensors{f' ({called[1]})' if called else ''}, and unpacking that could run any code: refused\n"
            "Where you trust the file, write its state_dict alone: safetensors.torch.save_file(model.state_dict(), ...)"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not a file of weights that torch can read, or it is damaged: {first_line(error)}") from error


def _state(value: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(value, Mapping) and (inner := next((value[k] for k in WRAPPERS if isinstance(value.get(k), Mapping)), None)):
        value = inner
    if not isinstance(value, Mapping) or not value or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        what = f"keys {_enumerate(sorted(map(str, value)))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise UserError(
            f"{path} holds no state_dict, alone or under {', '.join(WRAPPERS)}, but {what}: save model.state_dict() and give that"
        )
    return {str(key): tensor for key, tensor in value.items()}


def _fit(model: nn.Module, tensors: dict[str, Tensor], path: Path, kept: Collection[str]) -> None:
    names = model.state_dict().keys()
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors) and not any(key.startswith(prefix) for key in names):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    with undoing() as undo:
        try:
            take_thin(model, tensors, undo)
        except UserError as error:
            raise UserError(f"{path} does not fit this network: {error}") from error
        _fill(model, tensors, path, kept)


def _fill(model: nn.Module, tensors: dict[str, Tensor], path: Path, kept: Collection[str]) -> None:
    expected = {key: tensor for key, tensor in model.state_dict().items() if key not in kept}
    shapes = [
        f"{key} {tuple(tensor.shape)} instead of {tuple(expected[key].shape)}"
        for key, tensor in tensors.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    try:
        missing, unexpected = ([], []) if shapes else model.load_state_dict(tensors, strict=False)
        missing = [key for key in missing if key not in kept]
    except RuntimeError as error:
        raise UserError(f"{path} does not fit this network: {first_line(error)}") from error
    lists = {"missing": missing, "not in the network": unexpected, "of another shape": shapes}
    if any(lists.values()):
        wrong = "; ".join(f"{len(names)} {what}: {_enumerate(names)}" for what, names in lists.items() if names)
        raise UserError(
            f"{path} does not fit this network: {wrong}\n"
            "Give the architecture, the input shape and the number of classes that these weights were trained with"
        )


def _enumerate(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
