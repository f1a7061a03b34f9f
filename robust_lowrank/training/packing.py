"""Nested values are packed into JSON and tensors, and back bit for bit, without pickle."""

from typing import Any

import torch
from torch import Tensor

PLAIN = (str, int, float, bool, type(None))


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON can hold it, its tensors put into `tensors` and named in their places.

    Example:
        >>> tensors = {}
        >>> pack({0: (torch.zeros(2), 1.5)}, tensors), list(tensors)
        ({'dict': [[0, {'tuple': [{'tensor': '0', 'stride': [1]}, 1.5]}]]}, ['0'])

    Strides are kept, as the last bit of a product may depend on them.

    Raises:
        TypeError: there is something else than tables, lists, tuples, tensors, numbers and texts.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name, "stride": list(value.stride())}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"a {type(value).__name__} is nothing that a file of numbers and texts can hold")


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what `pack` was given, its tensors on the CPU.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: `pack` did not make it.
    """
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        tensor = tensors[packed["tensor"]]
        if list(tensor.stride()) == packed["stride"]:
            return tensor
        return torch.empty_strided(tensor.shape, packed["stride"], dtype=tensor.dtype).copy_(tensor)
    if "tuple" in packed:
        return tuple(unpack(item, tensors) for item in packed["tuple"])
    return {unpack(key, tensors): unpack(item, tensors) for key, item in packed["dict"]}
