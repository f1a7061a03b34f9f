"""Calls that only move entries are bounded by how often an entry is found in their result."""

import math
from typing import Any

import torch
from torch import Tensor

from robust_lowrank.conditioning.constants import Unbounded
from robust_lowrank.conditioning.rules.call import Call, product

CHOOSING = frozenset({"index", "indices", "mask", "condition"})  # arguments that say which entries are taken
FILLING = ("value", "fill_value", "self", "other")  # arguments that may be numbers, and are entries then


def moved(call: Call) -> float:
    """Bound a call that only moves entries: it is made with their numbers, and one that lands m times counts sqrt(m).

    Entries of several arguments join as sqrt(a^2 + b^2), for each entry of the result is one of theirs.
    """
    if call.given.get("accumulate"):
        raise Unbounded("it adds entries up")
    first, ranges = 1, []

    def numbered(value: Any, bound: Any, *, chooses: bool) -> Any:
        nonlocal first
        if isinstance(value, list | tuple) and any(isinstance(part, Tensor) for part in value):
            parts = bound if isinstance(bound, list) else [None] * len(value)
            return [numbered(part, part_bound, chooses=chooses) for part, part_bound in zip(value, parts, strict=True)]
        if not isinstance(value, Tensor):
            return value
        if bound is None:
            return value if chooses else torch.zeros_like(value, dtype=torch.float64)
        if chooses:
            raise Unbounded("an index or a mask that depends on the input")
        ranges.append((first, first + value.numel(), bound))
        first += value.numel()
        return torch.arange(first - value.numel(), first, dtype=torch.float64).reshape(value.shape)

    given = {name: numbered(value, call.bounds.get(name), chooses=name in CHOOSING) for name, value in call.given.items()}
    given |= {name: 0.0 for name in FILLING if isinstance(given.get(name), int | float)}
    moved = _target(call.name)(**given)
    parts = moved if isinstance(moved, list | tuple) else [moved]
    counts = torch.cat([part.flatten().double() for part in parts]).long().bincount(minlength=first)
    return math.hypot(*(product(math.sqrt(int(counts[low:high].max())), bound) for low, high, bound in ranges if high > low))


def _target(name: str) -> Any:
    _, packet, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, packet), overload)
