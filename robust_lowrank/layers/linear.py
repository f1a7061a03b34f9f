"""A layer maps `y = x V S^T U^T + b`."""

from typing import ClassVar

from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer, Kind, MatrixFactors, parameters_of
from robust_lowrank.layers.functional import low_rank_linear


class FactoredLinear(FactoredLayer):
    """A linear layer that owns copies of factors and bias."""

    kind: ClassVar[Kind] = "linear"
    replaces: ClassVar[type[nn.Module]] = nn.Linear
    weight_dims: ClassVar[int] = 2

    @staticmethod
    def torch_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
        """Return the `nn.Linear`."""
        return linear_layer(weight, bias)

    def dense_layer(self) -> nn.Linear:
        """Return the `nn.Linear` with the merged weight."""
        return linear_layer(self.dense_weight(), self.bias)


class LowRankLinear(MatrixFactors, FactoredLinear):
    """A linear layer with the weight W = U S V^T.

    Example:
        >>> layer = LowRankLinear(Factors(torch.eye(2), (torch.eye(4, 2), torch.eye(3, 2))))
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        y = low_rank_linear(x, self.U, self.S, self.V)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def dense_weight(self) -> Tensor:
        """Return W (n, m)."""
        return self.U @ self.S @ self.V.T

    def factored_layers(self) -> nn.Sequential:
        """Return `nn.Linear(m, r)` with V^T, then `nn.Linear(r, n)` with U S."""
        core, (u, v) = self.used_factors()
        return nn.Sequential(linear_layer(v.T, None), linear_layer(u @ core, self.bias))


def linear_layer(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Return an `nn.Linear` that owns copies of the weight and bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    (layer.weight,) = parameters_of([weight])
    if bias is not None:
        (layer.bias,) = parameters_of([bias])
    return layer
