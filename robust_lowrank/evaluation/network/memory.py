"""Where memory ends, the same work is done in smaller parts, which changes no verdict."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.threat import observe

_Result = TypeVar("_Result")


def in_halves(work: Callable[[Tensor], _Result], rows: Tensor, network: FixedBatch) -> list[_Result]:
    """Do the work on all rows; where that takes more memory than there is, on each half, down to pieces of the network's batches.

    A single row that is still too much is tried with a smaller piece, which can change the last bits of logits.

    Example:
        >>> parts = in_halves(attack, torch.arange(256), network)

    Raises:
        RuntimeError: one example alone takes too much.
    """
    try:
        return [work(rows)]
    except RuntimeError as error:
        if not _is_out_of_memory(error) or (len(rows) == 1 and network.piece == 1):
            raise
    torch.cuda.empty_cache()
    if len(rows) <= network.piece:
        network.piece = max(1, network.piece // 2)
        return in_halves(work, rows, network)
    middle = len(rows) // 2
    return [*in_halves(work, rows[:middle], network), *in_halves(work, rows[middle:], network)]


def observed(network: FixedBatch, x: Tensor) -> dict[str, str]:
    """Return `threat.observe` of a network, in smaller pieces where that takes more memory than there is.

    Example:
        >>> observed(FixedBatch(Target(model, x)), x)["clean"]

    Raises:
        RuntimeError: one example alone takes too much.
    """
    try:
        return observe(network, x)
    except RuntimeError as error:
        if not _is_out_of_memory(error) or network.piece == 1:
            raise
    torch.cuda.empty_cache()
    network.piece = max(1, network.piece // 2)
    return observed(network, x)


def in_smaller_batches(work: Callable[[int], _Result], size: int) -> _Result:
    """Do work with `size` examples at a time; where that takes more memory than there is, with half as many, down to one.

    Example:
        >>> found = in_smaller_batches(lambda size: probe(model, x, y, threat, seed=0, batch_size=size), 256)

    Raises:
        RuntimeError: one example at a time takes too much.
    """
    try:
        return work(size)
    except RuntimeError as error:
        if size == 1 or not _is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    return in_smaller_batches(work, size // 2)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
