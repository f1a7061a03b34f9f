"""The slots of a factored layer's gradients: what is in them, and who may move by it."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer, Factors


def split(tensors: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return core and bases of a list that has them in this order."""
    return tensors[0], tuple(tensors[1:])


def joined(factors: Factors) -> tuple[Tensor, ...]:
    """Return core and bases in one tuple."""
    return (factors.core, *factors.bases)


def gradients(layer: FactoredLayer) -> Factors:
    """Return what stands in the gradients' slots, zeros where nothing does."""
    core, *bases = (_gradient(parameter) for parameter in (layer.core, *layer.bases()))
    return Factors(core, tuple(bases))


def can_turn(layer: FactoredLayer) -> bool:
    """Return whether the core and all bases have gradients."""
    return all(parameter.grad is not None for parameter in (layer.core, *layer.bases()))


def clear(parameters: Iterable[nn.Parameter]) -> None:
    """Empty the gradients' slots."""
    for parameter in parameters:
        parameter.grad = None


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def require_grad(parameters: Iterable[nn.Parameter], wanted: bool) -> None:
    """Have parameters take part in the backward pass, or not."""
    for parameter in parameters:
        parameter.requires_grad_(wanted)
