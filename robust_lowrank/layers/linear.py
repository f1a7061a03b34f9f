"""A layer maps `y = x V S^T U^T + b`."""

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from robust_lowrank.layers.base import Kind, MatrixFactors, parameters_of
from robust_lowrank.layers.chain import ChainLayer
from robust_lowrank.layers.functional import linear_gradients, low_rank_linear
from robust_lowrank.layers.seen import Seen
from robust_lowrank.linalg import Factors


class FactoredLinear(ChainLayer):
    """A linear layer that owns copies of factors and bias.

    Attributes:
        transposed: whether the layer whose place it takes has its weight as (m, n).
    """

    kind: ClassVar[Kind] = "linear"
    transposed: bool = False

    @classmethod
    def takes(cls, layer: Any) -> bool:
        """Return whether a layer is an `nn.Linear`, or the Conv1D of Hugging Face's transformers."""
        return isinstance(layer, nn.Linear) or is_transposed(layer)

    @classmethod
    def in_place_of(cls, layer: Any, factors: Factors, bias: Tensor | None) -> Self:
        """Return the layer of these factors that computes on what `layer` computes on."""
        built = super().in_place_of(layer, factors, bias)
        built.transposed = is_transposed(layer)
        return built

    @classmethod
    def weight_of(cls, layer: Any) -> Tensor:
        """Return W (n, m)."""
        return layer.weight.T if is_transposed(layer) else layer.weight

    def shaped(self, weight: Tensor) -> Tensor:
        """Return W (n, m), or its transpose if that is how the weight is stored."""
        return weight.T if self.transposed else weight

    @staticmethod
    def torch_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
        """Return the `nn.Linear`."""
        return linear_layer(weight, bias)


class LowRankLinear(MatrixFactors, FactoredLinear):
    """A linear layer with the weight W = U S V^T.

    Example:
        >>> layer = LowRankLinear(Factors(torch.eye(2), (torch.eye(4, 2), torch.eye(3, 2))))
        >>> layer(torch.ones(5, 3)).shape, layer.in_features
        (torch.Size([5, 4]), 3)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        self.look_at_bases()
        return low_rank_linear(x, self.U, self.S, self.V, self.bias, self.passes())

    def product(self, x: Tensor, factors: Factors) -> Tensor:
        """Return the map of x by other factors."""
        core, (u, v) = factors
        return low_rank_linear(x, u, core, v)

    def gradients_of(self, seen: Seen, *, sides: bool) -> tuple[Tensor | None, ...]:
        """Return what the present factors' slots receive from a pass of the same weight."""
        return linear_gradients(seen, self.U, self.S, self.V, sides=sides)

    def factored_layers(self) -> nn.Sequential:
        """Return `nn.Linear(m, r)` with V^T, then `nn.Linear(r, n)` with U S."""
        core, (u, v) = self.used_factors()
        first, second = (each.to(self.weight_dtype) for each in (v.T, u @ core))
        return nn.Sequential(linear_layer(first, None), linear_layer(second, self.bias))


def is_transposed(layer: Any) -> bool:
    """Return whether a layer is the Conv1D of Hugging Face's transformers, a linear layer with the weight (m, n)."""
    return type(layer).__qualname__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils"


def linear_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return an `nn.Linear` that owns copies of the weight and bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    (layer.weight,) = parameters_of([weight])
    if bias is not None:
        (layer.bias,) = parameters_of([bias])
    return layer
