"""Forms say how weights are stored: by which layers, and in which shapes of factors."""

import math
from dataclasses import dataclass
from typing import Any, TypeGuard, get_args

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.layers import free, whole
from robust_lowrank.layers.base import FactoredLayer, Kind, MatrixFactors
from robust_lowrank.layers.conv import LowRankConv, TuckerConv2d
from robust_lowrank.layers.linear import LowRankLinear
from robust_lowrank.layers.merged import Block, MergedLayer
from robust_lowrank.linalg import Factors, Ranks

Dense = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d  # torch's layers whose places chains take
Source = Dense | Block  # what has a weight that can be factored


class MergedMatrix(MatrixFactors, MergedLayer):
    """A block W = U S V^T of a parameter."""


@dataclass(frozen=True)
class Form:
    """A way to store weights.

    Attributes:
        layers: the layers that hold the factors, the first that takes a weight's place being the one that gets it.
        modes: how many modes of a matrix have a basis.
        kernel_modes: how many of a kernel (F, Cin, kh, kw); None where it is the matrix of its filters (F, Cin * kh * kw).
    """

    layers: tuple[type[FactoredLayer], ...]
    modes: int = 2
    kernel_modes: int | None = None

    def layer_type(self, layer: Any) -> type[FactoredLayer] | None:
        """Return the layer that takes the place of such a one, or of a subclass; None if this form has none."""
        return next((each for each in self.layers if each.takes(layer)), None)

    def refusal(self, layer: Any) -> str | None:
        """Return the reason why a layer cannot be factored in this form; None if it can."""
        kind = self.layer_type(layer)
        return f"a {type(layer).__name__} has no such factors" if kind is None else kind.refusal(layer)

    def weight(self, layer: Source) -> Tensor:
        """Return a layer's weight as it is factored, in float32 or better."""
        kind = self.layer_type(layer)
        assert kind is not None
        weight = linalg.at_least_float32(kind.weight_of(layer).detach())
        return weight if kind.kind == "tucker" or self.modes == 0 else weight.flatten(1)

    def modes_of(self, weight: Tensor) -> int:
        """Return the number of modes that have a basis."""
        return self.modes if weight.ndim == 2 or self.kernel_modes is None else self.kernel_modes

    def count(self, layer: Source, ranks: Ranks) -> int:
        """Return the number of weight parameters that a layer has at these ranks."""
        kind = self.layer_type(layer)
        assert kind is not None
        return kind.count(self.weight(layer).shape, ranks)

    def shipped(self, layer: Source, ranks: Ranks) -> int:
        """Return the number of weight parameters at these ranks once cores are part of their neighbours, as they are in exports."""
        n, m, *kernel = self.weight(layer).shape
        return n * ranks[0] + m * ranks[1] + ranks[0] * ranks[1] * math.prod(kernel) if kernel else ranks[0] * (n + m)

    def at_inference(self, layer: Source, ranks: Ranks) -> int:
        """Return the least number of weight parameters with which ordinary layers compute the same."""
        dense = self.weight(layer).numel()
        return dense if isinstance(layer, Block) or not ranks else min(self.shipped(layer, ranks), dense)

    def blank(self, layer: Source, ranks: Ranks) -> Factors:
        """Return factors of these ranks, all zero, to be filled.

        Raises:
            ValueError: ranks that the factors of such a layer cannot have.
        """
        weight = self.weight(layer)
        if len(ranks) != self.modes_of(weight) or not all(1 <= r <= n for r, n in zip(ranks, weight.shape, strict=False)):
            raise ValueError(f"ranks {ranks} of a {tuple(weight.shape)} weight")
        bases = tuple(weight.new_zeros(size, rank) for size, rank in zip(weight.shape, ranks, strict=False))
        return Factors(weight.new_zeros(*ranks, *weight.shape[len(ranks) :]), bases)


FORMS: dict[str, Form] = {
    "matrix": Form((LowRankLinear, LowRankConv, MergedMatrix)),
    "channels": Form((LowRankLinear, TuckerConv2d, LowRankConv, MergedMatrix), kernel_modes=2),
    "tucker": Form((LowRankLinear, TuckerConv2d, LowRankConv, MergedMatrix), kernel_modes=4),
    "whole": Form((whole.WholeLinear, whole.WholeConv, whole.MergedWhole), modes=0, kernel_modes=0),
    "pair": Form((free.VanillaLinear, free.VanillaConv, free.MergedPair)),
    "triple": Form((free.TripleLinear, free.TripleConv, free.MergedTriple)),
    "diagonal": Form((free.DiagonalLinear, free.DiagonalConv, free.MergedDiagonal)),
}


def form_of(method: Any) -> Form:
    """Return the form in which a method keeps weights."""
    return FORMS[method.form]


def is_dense(module: nn.Module) -> TypeGuard[Dense]:
    """Return whether a module is one of torch's layers that can be factored, and no subclass of it."""
    return type(module) in get_args(Dense)


def kind_of(layer: Source) -> Kind:
    """Return `linear`, `conv` or `merged`."""
    if isinstance(layer, Block):
        return "merged"
    return "linear" if layer.weight.ndim == 2 else "conv"


@torch.no_grad()
def matrix_of(layer: Source) -> Tensor:
    """Return the weight as a matrix: a kernel becomes (F, Cin * kh * kw), kw fastest."""
    return layer.weight.detach().flatten(1)


def build(layer: Source, factors: Factors, method: Any, *, bias: bool = True) -> FactoredLayer:
    """Return the factored layer that takes the place of `layer`, with its mode and, if wanted, its bias."""
    kind = form_of(method).layer_type(layer)
    assert kind is not None
    built = kind.in_place_of(layer, factors, layer.bias if bias else None)
    built.method = method
    return built.train(layer.training)
