"""Layers that keep their weight whole, for methods that hold it on a manifold of full rank."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer, parameters_of
from robust_lowrank.layers.conv import ConvShape, _FactoredConv2d, conv_layer
from robust_lowrank.layers.linear import linear_layer
from robust_lowrank.linalg import Factors


class _Whole(FactoredLayer):
    core_name = "weight"
    weight: nn.Parameter

    def inference_parameters(self) -> int:
        """Return the size of the weight."""
        return self.dense_parameters()


class WholeLinear(_Whole):
    """A linear layer whose weight (n, m) is a core without bases."""

    kind = "linear"

    def __init__(self, factors: Factors, bias: Tensor | None = None) -> None:
        super().__init__()
        (self.weight,) = parameters_of([factors.core])
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        n, m = self.weight.shape
        self.weight_shape = (n, m)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias)

    def dense_weight(self) -> Tensor:
        """Return W (n, m)."""
        return self.weight

    def dense_layer(self) -> nn.Linear:
        """Return the `nn.Linear` with the same weight."""
        return linear_layer(self.weight, self.bias)

    def factored_layers(self) -> nn.Sequential:
        """Return the `nn.Linear` alone: there is nothing to factor."""
        return nn.Sequential(self.dense_layer())


class WholeConv2d(_Whole, _FactoredConv2d):
    """A convolution whose kernel (F, Cin, kh, kw) is a core without bases."""

    kind = "conv"

    def __init__(self, factors: Factors, shape: ConvShape, bias: Tensor | None = None) -> None:
        super().__init__()
        (self.weight,) = parameters_of([factors.core])
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.shape = shape
        self.weight_shape = (self.weight.shape[0], math.prod(self.weight.shape[1:]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, H, W)."""
        return F.conv2d(x, self.weight.to(x.dtype), self.bias, *self.shape.window)

    def dense_weight(self) -> Tensor:
        """Return the kernel."""
        return self.weight

    def factored_layers(self) -> nn.Sequential:
        """Return the convolution alone: there is nothing to factor."""
        return nn.Sequential(conv_layer(self.weight, self.bias, self.shape.window))
