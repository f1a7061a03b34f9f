"""Examples are read from files of arrays that no catalogue knows."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robust_lowrank.data.catalogue import DATASETS, load
from robust_lowrank.errors import UserError, unknown_name

SUFFIXES = (".npz", ".safetensors")
HOW = "write it with numpy.savez(path, x=images, y=labels)"
FLOATS = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Examples(NamedTuple):
    """Inputs (N, ...) in [0, 1], their labels (N,) in int64, and how they came to be."""

    x: Tensor
    y: Tensor
    note: str  # such as "uint8, divided by 255"


def load_examples(source: str, *, data_dir: Path | None = None, download: bool = False) -> Examples:
    """Return the test part of a data set by name, or what a file of arrays holds.

    Example:
        >>> load_examples("digits").x.shape
        torch.Size([500, 1, 8, 8])

    Raises:
        UserError: as `load` and `load_arrays`.
    """
    if source in DATASETS:
        data = load(source, data_dir=data_dir, download=download)
        return Examples(data.test_x, data.test_y, f"test part of {source}")
    if Path(source).suffix not in SUFFIXES:
        raise unknown_name("data set", source, [*DATASETS, *(f"FILE{suffix}" for suffix in SUFFIXES)])
    return load_arrays(Path(source))


def load_arrays(path: Path) -> Examples:
    """Read `x` and `y` from a `.npz` or `.safetensors` file; nothing in it is unpickled.

    Inputs are floats in [0, 1], or bytes, which are divided by 255. Labels are integers from 0.

    Example:
        >>> np.savez("/tmp/two.npz", x=np.full((2, 1, 4, 4), 255, dtype=np.uint8), y=np.array([0, 1]))
        >>> x, y, note = load_arrays(Path("/tmp/two.npz"))
        >>> x.shape, float(x.max()), note
        (torch.Size([2, 1, 4, 4]), 1.0, 'uint8, divided by 255')

    Raises:
        UserError: there is no such file, an array is missing, or its shape, type or values are others.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: there are no examples to read")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} must be a .npz or .safetensors file with the arrays x and y: {HOW}")
    inputs, labels = _npz(path) if path.suffix == ".npz" else _safetensors(path)
    (x, note), y = _inputs(path, inputs), _labels(path, labels)
    if len(x) != len(y):
        raise UserError(f"{path}: x has {len(x)} examples and y has {len(y)}: they go together, one label an example")
    return Examples(x, y, note)


def _npz(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as file:
            _require(path, file.files)
            return _tensor(path, "x", file["x"]), _tensor(path, "y", file["y"])
    except UserError:
        raise
    except Exception as error:  # numpy raises nearly anything on damaged files
        raise UserError(f"{path} holds no plain arrays, or is damaged: {error}\nPickled objects are not read: {HOW}") from error


def _tensor(path: Path, name: str, array: Any) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    except TypeError as error:
        raise UserError(f"{path}: {name} is of type {array.dtype}: inputs are floats or uint8, labels are integers") from error


def _safetensors(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            _require(path, file.keys())
            return file.get_tensor("x"), file.get_tensor("y")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file, or it is damaged: {error}") from error


def _require(path: Path, names: list[str]) -> None:
    if lacking := [name for name in ("x", "y") if name not in names]:
        raise UserError(f"{path} has no array {' and '.join(lacking)}, only {', '.join(sorted(names)) or 'nothing'}: {HOW}")


def _labels(path: Path, y: Tensor) -> Tensor:
    if y.dtype not in INTEGERS:
        raise UserError(f"{path}: y is of type {_type(y)}, where labels are integers, the numbers of the classes from 0")
    if y.dim() != 1:
        hint = "take argmax over the second axis" if y.dim() == 2 and y.shape[1] > 1 else "flatten it"
        raise UserError(f"{path}: y has the shape {tuple(y.shape)}, where (N,) is due, one label an example: {hint}")
    y = y.long()
    if (y < 0).any():
        first = int((y < 0).nonzero()[0])
        raise UserError(f"{path}: label {int(y[first])} of example {first} is negative: classes are counted from 0")
    return y


def _inputs(path: Path, x: Tensor) -> tuple[Tensor, str]:
    if x.dim() < 2 or not x.numel():
        raise UserError(f"{path}: x has the shape {tuple(x.shape)}, where (N, ...) is due, such as (N, channels, height, width)")
    if x.dtype == torch.uint8:
        return x.float().div_(255), "uint8, divided by 255"
    if x.dtype not in FLOATS:
        raise UserError(f"{path}: x is of type {_type(x)}, where floats in [0, 1] are due, or uint8, which is divided by 255")
    note, x = _type(x), x.to(FLOATS[x.dtype])
    outside = ~((x >= 0) & (x <= 1)).flatten(1).all(dim=1)
    if outside.any():
        raise UserError(f"{path}: {int(outside.sum())} of {len(x)} examples in x are not in [0, 1] {_range(x, outside)}")
    return x, note


def _range(x: Tensor, outside: Tensor) -> str:
    """Say how far examples are outside, and what has probably happened to them."""
    first, low, high = int(outside.nonzero()[0]), float(x.min()), float(x.max())
    where = f"(the first is number {first}; values from {low:g} to {high:g})"
    if not x.isfinite().all():
        return f"{where}: some values are not finite; repair them"
    if low < 0:
        return f"{where}: they look normalised; give them raw, and --mean and --std to normalise within the model"
    return f"{where}: divide by 255, or store them as uint8" if 2 < high <= 255 else f"{where}: scale them"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
