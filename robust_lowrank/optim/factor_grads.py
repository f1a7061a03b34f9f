"""A factored layer's gradients stand in slots, which say who may move by them."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.layers.merging import sides_of_slots
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import tangent


def split(tensors: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return core and bases of a list that has them in this order."""
    return tensors[0], tuple(tensors[1:])


def join(factors: Factors) -> tuple[Tensor, ...]:
    """Return core and bases in one tuple."""
    return (factors.core, *factors.bases)


def gradients(layer: FactoredLayer) -> Factors:
    """Return the projected gradients; a basis without one gets what follows from the core's."""
    core = torch.zeros_like(layer.core) if layer.core.grad is None else layer.core.grad
    sides = [basis.grad for basis in layer.bases()]
    if any(side is None for side in sides):
        told = tangent.of_core(layer.factors(), core).bases
        return Factors(core, tuple(part if side is None else side for side, part in zip(sides, told, strict=True)))
    present = tuple(side for side in sides if side is not None)
    return Factors(core, sides_of_slots(present, core, layer.factors().bases) if present and core.ndim == 2 else present)


def can_turn(layer: FactoredLayer) -> bool:
    """Return whether the core and all bases have gradients."""
    return all(parameter.grad is not None for parameter in (layer.core, *layer.bases()))


def clear(parameters: Iterable[nn.Parameter]) -> None:
    """Empty the gradients' slots."""
    for parameter in parameters:
        parameter.grad = None


def require_grad(parameters: Iterable[nn.Parameter], wanted: bool) -> None:
    """Have parameters take part in the backward pass, or not."""
    for parameter in parameters:
        parameter.requires_grad_(wanted)
