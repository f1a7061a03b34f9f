"""Forms say how weights are stored: by which layers, and in which shapes of factors."""

from dataclasses import dataclass
from typing import Any, TypeGuard, get_args

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.layers import free, whole
from robust_lowrank.layers.base import FactoredLayer, Kind
from robust_lowrank.layers.conv import LowRankConv2d, TuckerConv2d
from robust_lowrank.layers.linear import LowRankLinear
from robust_lowrank.linalg import Factors, Ranks

Dense = nn.Linear | nn.Conv2d  # torch's layers whose place factored ones take


@dataclass(frozen=True)
class Form:
    """A way to store weights.

    Attributes:
        layers: the layers that hold the factors, one for each kind of torch's.
        modes: how many modes of a matrix have a basis.
        kernel_modes: how many of a kernel (F, Cin, kh, kw); None where it is the matrix of its filters (F, Cin * kh * kw).
    """

    layers: tuple[type[FactoredLayer], ...]
    modes: int = 2
    kernel_modes: int | None = None

    def layer_type(self, layer: Dense) -> type[FactoredLayer] | None:
        """Return the layer that takes the place of such a one, or of a subclass; None if this form has none."""
        return next((each for each in self.layers if isinstance(layer, each.replaces)), None)

    def refusal(self, layer: Dense) -> str | None:
        """Return the reason why a layer cannot be factored in this form; None if it can."""
        kind = self.layer_type(layer)
        return f"a {type(layer).__name__} has no such factors" if kind is None else kind.refusal(layer)

    def weight(self, layer: Dense) -> Tensor:
        """Return a layer's weight as it is factored, in float32 or better."""
        weight = linalg.at_least_float32(layer.weight.detach())
        return weight.flatten(1) if self.kernel_modes is None else weight

    def modes_of(self, weight: Tensor) -> int:
        """Return the number of modes that have a basis."""
        return self.modes if weight.ndim == 2 or self.kernel_modes is None else self.kernel_modes

    def count(self, layer: Dense, ranks: Ranks) -> int:
        """Return the number of weight parameters that a layer has at these ranks."""
        kind = self.layer_type(layer)
        assert kind is not None
        return kind.count(self.weight(layer).shape, ranks)

    def blank(self, layer: Dense, ranks: Ranks) -> Factors:
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
    "matrix": Form((LowRankLinear, LowRankConv2d)),
    "channels": Form((LowRankLinear, TuckerConv2d), kernel_modes=2),
    "tucker": Form((LowRankLinear, TuckerConv2d), kernel_modes=4),
    "whole": Form((whole.WholeLinear, whole.WholeConv2d), modes=0, kernel_modes=0),
    "pair": Form((free.VanillaLinear, free.VanillaConv2d)),
    "triple": Form((free.TripleLinear, free.TripleConv2d)),
    "diagonal": Form((free.DiagonalLinear, free.DiagonalConv2d)),
}


def form_of(method: Any) -> Form:
    """Return the form in which a method keeps weights."""
    return FORMS[method.form]


def is_dense(module: nn.Module) -> TypeGuard[Dense]:
    """Return whether a module is one of torch's layers that can be factored, and no subclass of it."""
    return type(module) in get_args(Dense)


def kind_of(layer: Dense) -> Kind:
    """Return `linear` or `conv`."""
    return "linear" if layer.weight.ndim == 2 else "conv"


@torch.no_grad()
def matrix_of(layer: Dense) -> Tensor:
    """Return the weight as a matrix: a kernel becomes (F, Cin * kh * kw), kw fastest."""
    return layer.weight.detach().flatten(1)


def build(layer: Dense, factors: Factors, method: Any, *, bias: bool = True) -> FactoredLayer:
    """Return the factored layer that takes the place of `layer`, with its mode and, if wanted, its bias."""
    kind = form_of(method).layer_type(layer)
    assert kind is not None
    built = kind.in_place_of(layer, factors, layer.bias if bias else None)
    built.method = method
    return built.train(layer.training)
