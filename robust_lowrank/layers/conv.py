"""Convolutions have kernels that are matricised as U S V^T or in Tucker form, and are chains of ordinary ones."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor, nn

from robust_lowrank.layers.base import Kind, MatrixFactors, parameters_of
from robust_lowrank.layers.chain import ChainLayer
from robust_lowrank.layers.convolution import ConvGeometry, point
from robust_lowrank.layers.functional import (
    conv_gradients,
    low_rank_conv,
    spatial_core,
    tucker_conv2d,
    tucker_gradients,
)
from robust_lowrank.layers.merging import merge
from robust_lowrank.layers.seen import Seen
from robust_lowrank.linalg import Factors

TUCKER_BASES = ("U1", "U2", "U3", "U4")  # of filters, channels, height, width
CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}  # by directions


class ConvShape(NamedTuple):
    """The input channels, kernel size and geometry of a convolution, which its factors do not tell."""

    channels: int
    kernel: tuple[int, ...]
    geometry: ConvGeometry


def conv_shape(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> ConvShape | str:
    """Return the shape of a convolution, or the reason why it is no chain of convolutions with zero padding."""
    if conv.groups != 1:
        return f"grouped convolution ({conv.groups} groups)"
    if conv.padding_mode != "zeros":
        return f"padding mode {conv.padding_mode!r}"
    slides = conv.weight.dim() - 2
    kernel, stride, dilation = (_each(value, slides) for value in (conv.kernel_size, conv.stride, conv.dilation))
    if not isinstance(conv.padding, str):
        padding = _each(conv.padding, slides)
    elif conv.padding == "valid":
        padding = (0,) * slides
    else:
        total = tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        if any(size % 2 for size in total):
            return "padding 'same' that is not symmetric"
        padding = tuple(size // 2 for size in total)
    return ConvShape(conv.in_channels, kernel, ConvGeometry(stride, padding, dilation))


def _each(value: int | Sequence[int], slides: int) -> tuple[int, ...]:
    return (value,) * slides if isinstance(value, int) else tuple(value)


def conv_layer(weight: Tensor, bias: Tensor | None, geometry: ConvGeometry | None = None) -> nn.Module:
    """Return a torch convolution that owns copies of the kernel (F, Cin, ...) and bias, pointwise unless it has a geometry."""
    slides = weight.dim() - 2
    stride, padding, dilation = geometry or point(slides)
    filters, channels, *kernel = weight.shape
    options = {"stride": stride, "padding": padding, "dilation": dilation, "bias": bias is not None, "device": "meta"}
    layer = CONVS[slides](channels, filters, tuple(kernel), **options)  # pyright: ignore[reportArgumentType]
    (layer.weight,) = parameters_of([weight])
    if bias is not None:
        (layer.bias,) = parameters_of([bias])
    return layer


def pointwise(matrix: Tensor, bias: Tensor | None = None, *, slides: int = 2) -> nn.Module:
    """Return the 1 x 1 convolution with a matrix (out, in)."""
    return conv_layer(matrix[(..., *[None] * slides)], bias)


class FactoredConv(ChainLayer):
    """A convolution of signals, images or volumes that owns copies of factors and bias."""

    kind: ClassVar[Kind] = "conv"

    @classmethod
    def takes(cls, layer: Any) -> bool:
        """Return whether a layer is a convolution of signals, images or volumes."""
        return isinstance(layer, tuple(CONVS.values()))

    @classmethod
    def in_place_of(cls, layer: nn.Conv2d, factors: Factors, bias: Tensor | None) -> Self:
        """Return the convolution of these factors with the geometry of `layer`."""
        shape = conv_shape(layer)
        assert isinstance(shape, ConvShape)
        return cls(factors, shape, bias, like=layer)

    @classmethod
    def refusal(cls, layer: nn.Conv2d) -> str | None:
        """Return the reason why a convolution is no such chain; None if it is."""
        shape = conv_shape(layer)
        return shape if isinstance(shape, str) else None

    @staticmethod
    def torch_layer(weight: Tensor, bias: Tensor | None) -> nn.Module:
        """Return the convolution, at stride 1 without padding."""
        return conv_layer(weight, bias)

    def __init__(self, factors: Factors, shape: ConvShape, bias: Tensor | None = None, *, like: nn.Module | None = None) -> None:
        self.shape = shape
        self.slides: int = len(shape.kernel)
        if like is None:
            filters = len(factors.bases[0] if factors.bases else factors.core)
            blank = factors.core.new_empty((filters, shape.channels, *shape.kernel), device="meta")
            like = conv_layer(blank, bias, shape.geometry)
        super().__init__(factors, bias, like=like)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, ...), or of one without a batch."""
        self.look_at_bases()
        y = self._in_batches(self._convolve, x)
        return y if self.bias is None else y + self.bias.to(y.dtype)[(..., *[None] * self.slides)]

    def _in_batches(self, convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return convolve(x) if x.dim() == self.slides + 2 else convolve(x[None])[0]

    def _convolve(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def shaped(self, weight: Tensor) -> Tensor:
        """Return the kernel (F, Cin, ...)."""
        return self._kernel(weight)

    def _kernel(self, matrix: Tensor) -> Tensor:
        return matrix.reshape(-1, self.shape.channels, *self.shape.kernel)

    def _plain(self, weight: Tensor, geometry: ConvGeometry | None = None, bias: Tensor | None = None) -> nn.Module:
        """Return a torch convolution with this layer's precision."""
        return conv_layer(weight.to(self.weight_dtype), bias, geometry)

    def _plain_pointwise(self, matrix: Tensor, bias: Tensor | None = None) -> nn.Module:
        return self._plain(matrix[(..., *[None] * self.slides)], None, bias)


class LowRankConv(MatrixFactors, FactoredConv):
    """A convolution whose matricised kernel (F, Cin * prod(kernel)) is U S V^T: r spatial filters from V, then 1 x 1 with U S."""

    def _convolve(self, x: Tensor) -> Tensor:
        return low_rank_conv(x, self.U, self.S, self.V, self.shape.kernel, self.shape.geometry, self.passes())

    def product(self, x: Tensor, factors: Factors) -> Tensor:
        """Return the convolution of x with other factors."""
        core, (u, v) = factors
        return self._in_batches(lambda batch: low_rank_conv(batch, u, core, v, self.shape.kernel, self.shape.geometry), x)

    def gradients_of(self, seen: Seen, *, sides: bool) -> tuple[Tensor | None, ...]:
        """Return what the present factors' slots receive from a pass of the same weight."""
        return conv_gradients(seen, self.U, self.S, self.V, self.shape.kernel, self.shape.geometry, sides=sides)

    def factored_layers(self) -> nn.Sequential:
        """Return the spatial convolution with V^T, then the 1 x 1 convolution with U S."""
        core, (u, v) = self.used_factors()
        return nn.Sequential(self._plain(self._kernel(v.T), self.shape.geometry), self._plain_pointwise(u @ core, self.bias))


class TuckerConv2d(FactoredConv):
    """A convolution of images whose kernel is C x_1 U1 x_2 U2, or with bases U3, U4 of height and width too.

    It is a chain: 1 x 1 with U2^T, spatial with the core, 1 x 1 with U1. After `loss.backward()` the gradients of the bases are
    dL/dK_i = Mat_i(G x_{j != i} U_j^T) Q_i, that of C is G x_i U_i^T.
    """

    kind: ClassVar[Kind] = "tucker"
    core_name: ClassVar[str] = "C"

    @classmethod
    def takes(cls, layer: Any) -> bool:
        """Return whether a layer is a convolution of images."""
        return isinstance(layer, nn.Conv2d)

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

    def _convolve(self, x: Tensor) -> Tensor:
        return tucker_conv2d(x, self.C, self.bases(), self.shape.geometry, self.passes())

    def product(self, x: Tensor, factors: Factors) -> Tensor:
        """Return the convolution of x with other factors."""
        return self._in_batches(lambda batch: tucker_conv2d(batch, *factors, self.shape.geometry), x)

    def gradients_of(self, seen: Seen, *, sides: bool) -> tuple[Tensor | None, ...]:
        """Return what the present factors' slots receive from a pass of the same weight."""
        return tucker_gradients(seen, self.C, self.bases(), self.shape.geometry, sides=sides)

    def merged(self) -> Tensor:
        """Return the kernel (F, Cin, kh, kw)."""
        return merge(Factors(self.C, self.bases()))

    def inference_parameters(self) -> int:
        """Return the least of the chain, its core with whole kernel modes, and the dense kernel."""
        u1, u2 = self.used_factors().bases[:2]
        return min(u1.numel() + u2.numel() + u1.shape[1] * u2.shape[1] * math.prod(self.shape.kernel), self.dense_parameters())

    def factored_layers(self) -> nn.Sequential:
        """Return the 1 x 1, spatial and 1 x 1 convolutions."""
        core, bases = self.used_factors()
        spatial = self._plain(spatial_core(core, bases), self.shape.geometry)
        return nn.Sequential(self._plain_pointwise(bases[1].T), spatial, self._plain_pointwise(bases[0], self.bias))
