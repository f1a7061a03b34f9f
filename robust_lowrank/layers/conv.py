"""Convolutions have kernels that are matricised as U S V^T or in Tucker form, and are chains of ordinary ones."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.layers.base import FactoredLayer, Kind, MatrixFactors, parameters_of
from robust_lowrank.layers.functional import POINT, ConvGeometry, low_rank_conv2d, spatial_core, tucker_conv2d
from robust_lowrank.linalg import Factors

TUCKER_BASES = ("U1", "U2", "U3", "U4")  # of filters, channels, height, width


class ConvShape(NamedTuple):
    """The input channels, kernel size and geometry of a convolution, which its factors do not tell."""

    channels: int
    kernel: tuple[int, int]
    geometry: ConvGeometry


def conv_shape(conv: nn.Conv2d) -> ConvShape | str:
    """Return the shape of a convolution, or the reason why its kernel cannot be factored here."""
    if conv.groups != 1:
        return f"grouped convolution ({conv.groups} groups)"
    if conv.padding_mode != "zeros":
        return f"padding mode {conv.padding_mode!r}"
    kernel, stride, dilation = _pair(conv.kernel_size), _pair(conv.stride), _pair(conv.dilation)
    if not isinstance(conv.padding, str):
        padding = _pair(conv.padding)
    elif conv.padding == "valid":
        padding = (0, 0)
    else:
        total = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        if any(size % 2 for size in total):
            return "padding 'same' that is not symmetric"
        padding = (total[0] // 2, total[1] // 2)
    return ConvShape(conv.in_channels, kernel, ConvGeometry(stride, padding, dilation))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


def conv_layer(weight: Tensor, bias: Tensor | None, geometry: ConvGeometry = POINT) -> nn.Conv2d:
    """Return an `nn.Conv2d` that owns copies of the kernel (F, Cin, kh, kw) and bias, pointwise unless it has a geometry."""
    stride, padding, dilation = geometry
    filters, channels, *kernel = weight.shape
    layer = nn.Conv2d(channels, filters, _pair(tuple(kernel)), stride, padding, dilation, bias=bias is not None, device="meta")
    (layer.weight,) = parameters_of([weight])
    if bias is not None:
        (layer.bias,) = parameters_of([bias])
    return layer


def pointwise(matrix: Tensor, bias: Tensor | None = None) -> nn.Conv2d:
    """Return the 1 x 1 convolution with a matrix (out, in)."""
    return conv_layer(matrix[:, :, None, None], bias)


class FactoredConv2d(FactoredLayer):
    """A convolution that owns copies of factors and bias."""

    kind: ClassVar[Kind] = "conv"
    replaces: ClassVar[type[nn.Module]] = nn.Conv2d
    weight_dims: ClassVar[int] = 4

    @classmethod
    def in_place_of(cls, layer: nn.Conv2d, factors: Factors, bias: Tensor | None) -> Self:
        """Return the convolution of these factors with the geometry of `layer`."""
        shape = conv_shape(layer)
        assert isinstance(shape, ConvShape)
        return cls(factors, shape, bias)

    @classmethod
    def refusal(cls, layer: nn.Conv2d) -> str | None:
        """Return the reason why a kernel cannot be factored; None if it can."""
        shape = conv_shape(layer)
        return shape if isinstance(shape, str) else None

    @staticmethod
    def torch_layer(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
        """Return the `nn.Conv2d`, at stride 1 without padding."""
        return conv_layer(weight, bias)

    def __init__(self, factors: Factors, shape: ConvShape, bias: Tensor | None = None) -> None:
        self.shape = shape
        super().__init__(factors, bias)

    def _with_bias(self, y: Tensor) -> Tensor:
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]

    def dense_layer(self) -> nn.Conv2d:
        """Return the `nn.Conv2d` with the merged kernel."""
        return conv_layer(self.dense_weight(), self.bias, self.shape.geometry)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        stride, padding, dilation = self.shape.geometry
        return f"{super().extra_repr()}, kernel={self.shape.kernel}, {stride=}, {padding=}, {dilation=}"


class LowRankConv2d(MatrixFactors, FactoredConv2d):
    """A convolution whose matricised kernel (F, Cin kh kw) is U S V^T: r spatial filters from V, then 1 x 1 with U S."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, H, W)."""
        return self._with_bias(low_rank_conv2d(x, self.U, self.S, self.V, self.shape.kernel, self.shape.geometry))

    def _kernel(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(-1, self.shape.channels, *self.shape.kernel)

    def dense_weight(self) -> Tensor:
        """Return the kernel (F, Cin, kh, kw)."""
        return self._kernel(self.U @ self.S @ self.V.T)

    def factored_layers(self) -> nn.Sequential:
        """Return the spatial convolution with V^T, then the 1 x 1 convolution with U S."""
        core, (u, v) = self.used_factors()
        return nn.Sequential(conv_layer(self._kernel(v.T), None, self.shape.geometry), pointwise(u @ core, self.bias))


class TuckerConv2d(FactoredConv2d):
    """A convolution whose kernel is C x_1 U1 x_2 U2, or with bases U3, U4 of height and width too.

    It is a chain: 1 x 1 with U2^T, spatial with the core, 1 x 1 with U1. After `loss.backward()` the gradients of the bases are
    dL/dK_i = Mat_i(G x_{j != i} U_j^T) Q_i, that of C is G x_i U_i^T.
    """

    kind: ClassVar[Kind] = "tucker"
    core_name: ClassVar[str] = "C"

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        self.C, *bases = parameters_of((factors.core, *factors.bases))
        self.basis_names: tuple[str, ...] = TUCKER_BASES[: len(bases)]
        for name, basis in zip(self.basis_names, bases, strict=True):
            self.register_parameter(name, basis)
        return bases[0].shape[0], self.shape.channels * math.prod(self.shape.kernel)

    @classmethod
    def shape_of(cls, factors: Mapping[str, Tensor]) -> list[int]:
        """Return (F, Cin, kh, kw)."""
        names = zip(TUCKER_BASES, factors["C"].shape, strict=True)
        return [factors[name].shape[0] if name in factors else size for name, size in names]

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, H, W)."""
        return self._with_bias(tucker_conv2d(x, self.C, self.bases(), self.shape.geometry))

    def dense_weight(self) -> Tensor:
        """Return the kernel (F, Cin, kh, kw)."""
        return linalg.multi_product(self.C, self.bases())

    def inference_parameters(self) -> int:
        """Return the least of the chain, its core with whole kernel modes, and the dense kernel."""
        u1, u2 = self.used_factors().bases[:2]
        return min(u1.numel() + u2.numel() + u1.shape[1] * u2.shape[1] * math.prod(self.shape.kernel), self.dense_parameters())

    def factored_layers(self) -> nn.Sequential:
        """Return the 1 x 1, spatial and 1 x 1 convolutions."""
        core, bases = self.used_factors()
        spatial = conv_layer(spatial_core(core, bases), None, self.shape.geometry)
        return nn.Sequential(pointwise(bases[1].T), spatial, pointwise(bases[0], self.bias))
