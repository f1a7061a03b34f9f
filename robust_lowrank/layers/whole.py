"""Some layers keep their weight whole, on a manifold of full rank."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer, parameters_of
from robust_lowrank.layers.chain import ChainLayer
from robust_lowrank.layers.conv import FactoredConv
from robust_lowrank.layers.convolution import CONVOLUTIONS
from robust_lowrank.layers.linear import FactoredLinear
from robust_lowrank.layers.merged import MergedLayer
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

    def merged(self) -> Tensor:
        """Return the weight."""
        return self.weight

    def inference_parameters(self) -> int:
        """Return the size of the weight."""
        return self.dense_parameters()


class _WholeChain(_Whole, ChainLayer):
    def factored_layers(self) -> nn.Sequential:
        """Return the ordinary layer alone: there is nothing to factor."""
        return nn.Sequential(self.dense_layer())


class WholeLinear(_WholeChain, FactoredLinear):
    """A linear layer whose weight (n, m) is a core without bases."""

    @classmethod
    def takes(cls, layer: Any) -> bool:
        """Return whether a layer is an `nn.Linear`."""
        return isinstance(layer, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)


class WholeConv(_WholeChain, FactoredConv):
    """A convolution whose kernel (F, Cin, ...) is a core without bases."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, ...), or of one without a batch."""
        return CONVOLUTIONS[self.slides](x, self.weight.to(x.dtype), self.bias, *self.shape.geometry)


class MergedWhole(_Whole, MergedLayer):
    """A block of a parameter that is a core without bases."""
