"""Files of arrays hold examples: images or other inputs, and their labels."""

import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from robust_lowrank.bounds import regular_size, require_memory, require_proportion
from robust_lowrank.data.npy import members, read_npy
from robust_lowrank.data.reading import counted
from robust_lowrank.errors import UserError, first_line, shown

SUFFIXES = (".npz", ".safetensors")
HOW = "write it with numpy.savez(path, x=images, y=labels), or with train_x, train_y, test_x and test_y"
Names = tuple[str, str]  # of inputs and their labels
WHOLE: Names = ("x", "y")
TRAIN: tuple[Names, ...] = (("train_x", "train_y"), ("x_train", "y_train"), ("train_images", "train_labels"))
TEST: tuple[Names, ...] = tuple(
    (x.replace("train", part), y.replace("train", part)) for part in ("test", "val") for x, y in TRAIN
)  # the first that is there
CLASSES = "classes"
NUMBERED = "classes, y = numpy.unique(y, return_inverse=True) has them, and the names that the file may hold as classes"
FLOATS = {torch.float16: torch.float32, torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64)
DEEP = 65535  # white in 16 bits
ROUNDING = 1e-6  # beyond [0, 1], or the spacing of the type's numbers at 1 where that is more
NAMED = 100_000  # classes at most
EXAMPLE = 512  # bytes that an example's number, label and place in the split take


class Part(NamedTuple):
    """Inputs (N, ...), bytes or floats in [0, 1], their labels (N,) in int64, and how the inputs are stored."""

    x: Tensor
    y: Tensor
    note: str  # such as "uint8, divided by 255"


class Arrays(NamedTuple):
    """What a file holds. Either `whole` is there or the other two are; without `train` it is to test on alone."""

    train: Part | None
    test: Part | None
    whole: Part | None
    classes: tuple[str, ...] | None  # their names, if the file has them
    unused: list[str]  # arrays


def read_arrays(path: Path) -> Arrays:
    """Read a `.npz` or `.safetensors` file; nothing in it is unpickled.

    Inputs are bytes, uint16, which is divided by 65535, or floats in [0, 1]. Labels are integers from 0.

    Example:
        >>> np.savez("/tmp/two.npz", x=np.full((2, 1, 4, 4), 0.5), y=np.array([0, 1]))
        >>> read_arrays(Path("/tmp/two.npz")).whole.note
        'float64'

    Raises:
        UserError: there is no such file, an array is missing, or its shape, type or values are others.
    """
    size = regular_size(path)
    names, arrays = _npz(path, size) if path.suffix.lower() == ".npz" else _safetensors(path, size)
    train, test, whole = (pair and _part(path, pair, arrays) for pair in _pairs(path, names))
    classes = _classes(path, arrays[CLASSES]) if CLASSES in arrays else None
    return Arrays(train, test, whole, classes, sorted(set(names) - arrays.keys()))


def _pairs(path: Path, names: Collection[str]) -> tuple[Names | None, Names | None, Names | None]:
    """Return which arrays are to train on, to test on, and not divided."""
    train, test, whole = (next((pair for pair in pairs if {*pair} <= {*names}), None) for pairs in (TRAIN, TEST, (WHOLE,)))
    if train and test:
        return train, test, None
    if whole or train:
        return None, None, whole or train
    if test:
        return None, test, None
    halves = [pair for pair in (WHOLE, *TRAIN, *TEST) if {*pair} & {*names}] or [WHOLE]
    lacking = " and ".join(name for name in halves[0] if name not in names)
    raise UserError(f"{shown(path)} has no array {lacking}, only {', '.join(sorted(map(shown, names))) or 'nothing'}: {HOW}")


def _wanted(path: Path, names: Collection[str]) -> list[str]:
    return [name for pair in _pairs(path, names) if pair for name in pair] + [CLASSES] * (CLASSES in names)


def _npz(path: Path, size: int) -> tuple[list[str], dict[str, Any]]:
    """Return the names of all arrays, and those that are wanted; their sizes are looked at before they are unpacked."""
    try:
        with zipfile.ZipFile(path) as file:
            found = members(file, shown(path))
            wanted = {name: found[name] for name in _wanted(path, found)}
            expanded = sum(member.file_size for member in wanted.values())
            require_proportion(expanded, size, shown(path), "write it unpacked, with numpy.savez")
            require_memory(expanded, shown(path))
            arrays = dict[str, Any]()
            for name, member in wanted.items():
                with file.open(member) as stream:
                    arrays[name] = read_npy(stream, member.file_size, f"{shown(path)}: {name}")
            return [*found], arrays
    except UserError:
        raise
    except Exception as error:  # zipfile raises nearly anything on damaged files
        raise UserError(f"{shown(path)} is no .npz file, or is damaged: {shown(first_line(error))}\n{HOW}") from error


def _safetensors(path: Path, size: int) -> tuple[list[str], dict[str, Any]]:
    require_memory(size, shown(path))
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys()), {name: file.get_tensor(name) for name in _wanted(path, file.keys())}
    except UserError:
        raise
    except Exception as error:  # torch raises on types and shapes that it does not have
        raise UserError(f"{shown(path)} is not a safetensors file, or it is damaged: {shown(first_line(error))}") from error


def _part(path: Path, names: Names, arrays: dict[str, Any]) -> Part:
    inputs, labels = (f"{shown(path)}: {name}" for name in names)
    count = max((array.shape[0] for array in (arrays[name] for name in names) if array.ndim), default=0)
    require_proportion(EXAMPLE * count, regular_size(path), f"the {count:,} examples of {inputs}", "store fewer")
    x, note = _inputs(inputs, _tensor(inputs, arrays[names[0]], "inputs are floats in [0, 1] or uint8"))
    y = _labels(labels, arrays[names[1]])
    if len(x) != len(y):
        raise UserError(f"{inputs} has {len(x)} examples and {names[1]} has {len(y)}: they go together, one label an example")
    return Part(x, y, note)


def _tensor(where: str, array: Any, due: str) -> Tensor:
    if isinstance(array, Tensor):
        return array
    try:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("=")))
    except TypeError as error:
        raise UserError(f"{where} is of type {array.dtype}: {due}") from error


def _labels(where: str, array: Any) -> Tensor:
    y = _tensor(where, array, f"labels are integers: {NUMBERED}")
    if y.dtype not in INTEGERS:
        raise UserError(f"{where} is of type {_type(y)}, where labels are integers, the classes' numbers from 0: y.astype(int)")
    if y.dim() == 2 and y.shape[1] == 1:
        y = y.squeeze(1)
    if y.dim() != 1:
        hint = "if it is one-hot, store y.argmax(axis=1)" if y.dim() == 2 else "flatten it"
        raise UserError(f"{where} has the shape {tuple(y.shape)}, where (N,) is due, one label an example: {hint}")
    y = y.long()
    if (y < 0).any():
        first = int((y < 0).nonzero()[0])
        raise UserError(f"{where}: label {int(y[first])} of example {first} is negative: classes are counted from 0")
    return y


def _inputs(where: str, x: Tensor) -> tuple[Tensor, str]:
    if x.dim() < 2 or not x.numel():
        raise UserError(f"{where} has the shape {tuple(x.shape)}, where (N, ...) is due, such as (N, channels, height, width)")
    if x.dtype == torch.uint8:
        if int(x.max()) == 1:
            raise UserError(f"{where} has the bytes 0 and 1 alone, where white is 255: store x.astype('float32'), or x * 255")
        return x, "uint8, divided by 255"
    if x.dtype == torch.uint16:
        x = x.int()
        if int(x.max()) < 256:
            raise UserError(f"{where} is of type uint16 with no value above 255, where white is {DEEP}: store x.astype('uint8')")
        return x.float().div_(DEEP), f"uint16, divided by {DEEP}"
    if x.dtype not in FLOATS:
        fits = x.dtype in INTEGERS and int(x.long().min()) >= 0 and int(x.long().max()) < 256
        hint = ": store x.astype('uint8')" if fits else ""
        raise UserError(f"{where} is of type {_type(x)}, where floats in [0, 1] are due, or uint8, which is divided by 255{hint}")
    note, x = _rounded(x)
    outside = ~((x >= 0) & (x <= 1)).flatten(1).all(dim=1)
    if outside.any():
        raise UserError(f"{where}: {int(outside.sum())} of {len(x)} examples are not in [0, 1] {_range(x, outside)}")
    return x, note


def _rounded(x: Tensor) -> tuple[str, Tensor]:
    """Return a note, and floats of which those that rounding has brought beyond [0, 1] are brought back."""
    type_, most = _type(x), max(ROUNDING, torch.finfo(x.dtype).eps)
    x = x.to(FLOATS[x.dtype])
    low, high = x.min().item(), x.max().item()
    if not -most <= low <= high <= 1 + most or (low >= 0 and high <= 1):
        return type_, x
    beyond = counted(int(((x < 0) | (x > 1)).sum()), "value")
    return f"{type_}, {beyond} beyond [0, 1] by at most {max(-low, high - 1):.1g} taken as its ends", x.clamp(0, 1)


def _range(x: Tensor, outside: Tensor) -> str:
    """Say how far examples are outside, and what has probably happened to them."""
    first, low, high = int(outside.nonzero()[0]), float(x.min()), float(x.max())
    where = f"(the first is number {first}; values from {low:g} to {high:g})"
    if not x.isfinite().all():
        return f"{where}: some values are not finite; repair them"
    if low < 0:
        return (
            f"{where}: they look normalised; store them raw, x * std + mean: networks normalise by themselves, "
            "one from elsewhere with mean and std (--mean and --std)"
        )
    return f"{where}: divide by 255, or store them as uint8" if 2 < high <= 255 else f"{where}: scale them"


def _classes(path: Path, names: Any) -> tuple[str, ...]:
    if isinstance(names, Tensor) or names.ndim != 1 or names.dtype.kind != "U":
        raise UserError(f"{shown(path)}: classes must be a list of the classes' names: classes=['cat', 'dog']")
    if len(names) > NAMED:
        raise UserError(f"{shown(path)}: classes has {len(names):,} names, and there are at most {NAMED:,} classes")
    texts = tuple(str(name).encode("utf-8", "backslashreplace").decode() for name in names)
    if repeated := [name for name, count in Counter(texts).items() if count > 1]:
        raise UserError(f"{shown(path)}: the class {shown(repeated[0])} stands in classes more than once")
    return texts


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
