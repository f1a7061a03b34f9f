"""The linear layer `y = x V S^T U^T + b`."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer, Kind, parameters_of
from robust_lowrank.layers.functional import low_rank_linear
from robust_lowrank.linalg import Factors


class FactoredLinear(FactoredLayer):
    """A linear layer that owns copies of factors and bias."""

    kind: ClassVar[Kind] = "linear"

    def dense_layer(self) -> nn.Linear:
        """Return the `nn.Linear` with the merged weight."""
        return linear_layer(self.dense_weight(), self.bias)


class LowRankLinear(FactoredLinear):
    """A linear layer with the weight W = U S V^T, U (n, r) and V (m, r) orthonormal, S (r, r).

    After `loss.backward()` the gradients of (U, S, V) are the projected ones: G V, U^T G V and G^T U.

    Example:
        >>> layer = LowRankLinear(Factors(torch.eye(2), (torch.eye(4, 2), torch.eye(3, 2))))
        >>> layer(torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    core_name: ClassVar[str] = "S"
    basis_names: tuple[str, ...] = ("U", "V")

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        self.S, self.U, self.V = parameters_of((factors.core, *factors.bases))
        return self.U.shape[0], self.V.shape[0]

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


@torch.no_grad()
def matrix_of(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """Return the weight as a matrix: a kernel becomes (F, Cin * kh * kw), kw fastest."""
    return layer.weight.detach().flatten(1)
