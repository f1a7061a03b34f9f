"""Some layers keep their weight whole, on a manifold of full rank."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer, parameters_of
from robust_lowrank.layers.conv import FactoredConv2d
from robust_lowrank.layers.linear import FactoredLinear
from robust_lowrank.linalg import Factors


class _Whole(FactoredLayer):
    core_name: ClassVar[str] = "weight"
    weight: nn.Parameter

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        (self.weight,) = parameters_of([factors.core])
        return self.weight.shape[0], math.prod(self.weight.shape[1:])

    @classmethod
    def shape_of(cls, factors: Mapping[str, Tensor]) -> list[int]:
        """Return the weight's own shape."""
        return list(factors["weight"].shape)

    def dense_weight(self) -> Tensor:
        """Return the weight."""
        return self.weight

    def factored_layers(self) -> nn.Sequential:
        """Return the ordinary layer alone: there is nothing to factor."""
        return nn.Sequential(self.dense_layer())

    def inference_parameters(self) -> int:
        """Return the size of the weight."""
        return self.dense_parameters()


class WholeLinear(_Whole, FactoredLinear):
    """A linear layer whose weight (n, m) is a core without bases."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class WholeConv2d(_Whole, FactoredConv2d):
    """A convolution whose kernel (F, Cin, kh, kw) is a core without bases."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, H, W)."""
        return F.conv2d(x, self.weight.to(x.dtype), self.bias, *self.shape.geometry)
