"""Trials that an example could make one after the other are made side by side, where that fills pieces."""

import torch
from torch import Tensor


def repeated(values: Tensor, trials: int) -> Tensor:
    """Return the rows for each trial, (N, ...) to (trials * N, ...): all rows of the first trial, all of the second one, ...

    Example:
        >>> repeated(torch.tensor([4, 7]), 2)
        tensor([4, 7, 4, 7])
    """
    return values.repeat(trials, *[1] * (values.dim() - 1))


def overtaken(finished: Tensor, trials: int) -> Tensor:
    """Return of which rows an earlier trial has finished the example, from which rows are finished, both (trials * N,) bool.

    Example:
        >>> overtaken(torch.tensor([False, True, True, False]), 2)
        tensor([False, False, False,  True])
    """
    if trials == 1:
        return torch.zeros_like(finished)
    each = finished.reshape(trials, -1).long()
    return (each.cumsum(0) > each).flatten()
