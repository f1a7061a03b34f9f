"""A layer becomes a linear operator by its kernel and how it slides over an image."""

import copy
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, ChainLayer
from robust_lowrank.layers.forms import Dense

LinearLayer = Dense | ChainLayer | Adapter


def is_linear(layer: nn.Module) -> TypeGuard[LinearLayer]:
    """Return whether a module computes what its weight says, unlike a subclass of `nn.Linear` with a forward of its own."""
    if isinstance(layer, Adapter):
        return is_linear(layer.base)
    if isinstance(layer, ChainLayer | nn.Conv3d):
        return isinstance(layer, ChainLayer) and layer.slides <= 2
    kind = next((each for each in get_args(Dense) if isinstance(layer, each)), None)
    inherited = (getattr(type(layer), name, None) is getattr(kind, name, None) for name in ("forward", "_conv_forward"))
    return kind is not None and all(inherited)


class Convolution(NamedTuple):
    """The linear map of a convolution with zero padding; a matrix is a kernel of 1 x 1, on images of 1 x 1."""

    kernel: Tensor  # (F, Cin / groups, kh, kw), float64, on the CPU
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # left, right, top, bottom
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def channels(self) -> int:
        """The number of input channels."""
        return self.kernel.shape[1] * self.groups


@torch.no_grad()
def convolution(layer: LinearLayer | Convolution, *, scale: Tensor | None = None) -> Convolution:
    """Return the linear map of a layer without its bias, its output channels multiplied by `scale`, in float64.

    Example:
        >>> convolution(nn.Conv2d(3, 8, 3, stride=2, padding=1)).padding
        (1, 1, 1, 1)

    Of factors the map has no more channels than the rank: with the QR decompositions `A = Q R` of the outer ones it is the
    product without the `Q`, whose orthonormal columns change no singular value but zeros. The factors need not be orthonormal.

    Args:
        layer: a linear layer or convolution, dense, factored or adapted.
        scale: (F,), such as the one of a batch normalisation that follows.

    Raises:
        UserError: the convolution pads with something else than zeros, or a weight holds NaN or infinity.
    """
    if isinstance(layer, Convolution):
        return layer if scale is None else layer._replace(kernel=layer.kernel * scale.double().cpu()[:, None, None, None])
    if not all(bool(torch.isfinite(parameter).all()) for parameter in layer.parameters()):
        raise UserError("a layer that holds NaN or infinity has no norm")
    wide = copy.deepcopy(layer).double().cpu()
    if isinstance(wide, ChainLayer):
        before, middle, after = _chain(wide)
    else:
        before, middle, after = None, wide.dense_layer() if isinstance(wide, Adapter) else wide, None
    if (mode := getattr(middle, "padding_mode", "zeros")) != "zeros":
        raise UserError(f"padding mode {mode!r} has no bound here: only zeros have")
    kernel = _kernel(middle)
    factor = torch.ones(1, dtype=torch.float64) if scale is None else scale.double().cpu()
    if after is None:
        kernel = kernel * factor[:, None, None, None]
    else:
        kernel = torch.einsum("fr,rchw->fchw", torch.linalg.qr(factor[:, None] * _matrix(after)).R, kernel)
    if before is not None:
        kernel = torch.einsum("frhw,cr->fchw", kernel, torch.linalg.qr(_matrix(before).T).R)
    slides = len(_weight(middle).shape) - 2
    stride, dilation = (pair(getattr(middle, name, ()), slides, 1) for name in ("stride", "dilation"))
    padding = pads(getattr(middle, "padding", ()), kernel, dilation, slides)
    return Convolution(kernel, stride, padding, dilation, getattr(middle, "groups", 1))


def pads(padding: str | int | Sequence[int], kernel: Tensor, dilation: tuple[int, int], slides: int) -> tuple[int, int, int, int]:
    """Return by how many zeros an image is padded, (left, right, top, bottom), where a layer says `same`, `valid` or how many.

    Example:
        >>> pads("same", torch.ones(1, 1, 1, 4), (1, 1), 2)
        (1, 2, 0, 0)

    Args:
        slides: along how many directions the kernel goes: 1 along width alone, 0 of a matrix.
    """
    if padding == "same":
        wholes = [d * (k - 1) for d, k in zip(dilation, kernel.shape[2:], strict=True)]
        (top, left), (bottom, right) = [whole // 2 for whole in wholes], [whole - whole // 2 for whole in wholes]
        return left, right, top, bottom
    height, width = (0, 0) if isinstance(padding, str) else pair(padding, slides, 0)  # valid
    return width, width, height, height


def apply(conv: Convolution, x: Tensor) -> Tensor:
    """Return the map of images (B, Cin, H, W)."""
    return F.conv2d(F.pad(x, conv.padding), conv.kernel, None, conv.stride, 0, conv.dilation, conv.groups)


def apply_adjoint(conv: Convolution, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the adjoint map of outputs (B, F, H', W') for images of one size."""
    left, right, top, bottom = conv.padding
    (height, width), kernel = size, conv.kernel.shape[2:]
    padded = (height + top + bottom, width + left + right)
    rest = [
        extent - (out - 1) * s - d * (k - 1) - 1
        for extent, out, s, d, k in zip(padded, y.shape[2:], conv.stride, conv.dilation, kernel, strict=True)
    ]
    x = F.conv_transpose2d(y, conv.kernel, None, conv.stride, 0, rest, conv.groups, conv.dilation)
    return x[..., top : top + height, left : left + width]


def _chain(layer: ChainLayer) -> tuple[nn.Module | None, nn.Module, nn.Module | None]:
    """Return what comes before, at and after the layer that slides."""
    chain = list(layer.factored_layers())
    if len(chain) == 1:
        return None, chain[0], None
    if len(chain) == 2:
        return None, chain[0], chain[1]
    before, middle, after = chain
    return before, middle, after


def _matrix(layer: nn.Module) -> Tensor:
    return _weight(layer).flatten(1)


def _kernel(layer: nn.Module) -> Tensor:
    """Return the weight with height and width, of which a matrix has 1 x 1."""
    weight = _weight(layer)
    return weight.reshape(*weight.shape[:2], *[1] * (4 - weight.dim()), *weight.shape[2:])


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight  # of a parametrized layer no parameter
    assert isinstance(weight, Tensor)
    return weight.detach()


def pair(values: Sequence[int] | int, slides: int, missing: int) -> tuple[int, int]:
    """Return an option of height and width, each `missing` where nothing slides along it; one value holds for every direction.

    Example:
        >>> pair((3,), 2, 1), pair((3,), 1, 1), pair((), 0, 1)
        ((3, 3), (1, 3), (1, 1))
    """
    given = [values] if isinstance(values, int) else list(values)
    height, width = *[missing] * (2 - slides), *(given * slides if len(given) == 1 else given)
    return height, width
