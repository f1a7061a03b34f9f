"""What to do where memory ends: the same work in smaller parts, which changes no verdict."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from robust_lowrank.evaluation.steady import Steady

_Result = TypeVar("_Result")


def in_halves(work: Callable[[Tensor], _Result], rows: Tensor, steady: Steady) -> list[_Result]:
    """Do the work on all rows; where that takes more memory than there is, on each half, down to pieces of the network's batches.

    A single row that is still too much is tried with a smaller piece, which can change the last bits of logits.

    Example:
        >>> parts = in_halves(attack, torch.arange(256), steady)

    Raises:
        RuntimeError: one example alone takes too much.
    """
    try:
        return [work(rows)]
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        if len(rows) == 1 and steady.piece == 1:
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(rows) <= steady.piece:
        steady.piece = max(1, steady.piece // 2)
        return in_halves(work, rows, steady)
    middle = len(rows) // 2
    return [*in_halves(work, rows[:middle], steady), *in_halves(work, rows[middle:], steady)]


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
