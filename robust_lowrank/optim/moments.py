"""What becomes of an optimizer's state of a core when its bases turn."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robust_lowrank import linalg

FIRST_MOMENTS = ("momentum_buffer", "exp_avg", "grad_avg")
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


def transport(state: dict[str, Any], shape: torch.Size, maps: Sequence[Tensor]) -> dict[str, Any]:
    """Return an optimizer's state of a core after a change of bases, map i being U_i,new^T U_i,old.

    First moments turn with the core (methods (6)), which is exact for momentum SGD. Second moments turn by the squared entries, and
    rows and columns that an augmentation has added start at the old mean (methods (8)). A state with anything else is dropped.
    """
    moved = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or (value.shape != shape and value.numel() == 1):
            moved[key] = value
        elif key in FIRST_MOMENTS and value.shape == shape:
            moved[key] = linalg.multi_product(value, maps)
        elif key in SECOND_MOMENTS and value.shape == shape:
            moved[key] = _transport_squares(value, maps)
        else:
            return {}
    return moved


def _transport_squares(value: Tensor, maps: Sequence[Tensor]) -> Tensor:
    squares = linalg.multi_product(value, [each.square() for each in maps])
    fresh = torch.zeros_like(squares, dtype=torch.bool)
    for mode, each in enumerate(maps):
        if each.shape[0] > each.shape[1]:
            fresh.movedim(mode, 0)[each.shape[1] :] = True
    return torch.where(fresh, value.mean(), squares)
