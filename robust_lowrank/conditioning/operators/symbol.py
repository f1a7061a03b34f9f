"""A kernel's Fourier transform on a torus, its symbol, gives bounds and circular spectra."""

import math

import torch
from torch import Tensor

from robust_lowrank.conditioning.operators.convolution import Convolution, LinearLayer, apply, convolution

SLACK = 1e-9  # relative; FFT and eigenvalues in float64 are off by less than 1e-12 of the largest one
EXACT = 256  # entries of an image up to which the matrix is made
CHUNK = 2**24  # entries of matrices that are decomposed at a time


@torch.no_grad()
def conv_bound(layer: LinearLayer | Convolution, size: tuple[int, int]) -> float:
    """Return a rigorous upper bound of the norm of a convolution with zero padding on images of one size.

    Example:
        >>> conv_bound(Convolution(torch.eye(2, dtype=torch.float64)[:, :, None, None]), (8, 8))
        1.000000001

    It is the norm itself for linear layers, for images of one position, and where an image has at most 256 entries: that of the
    matrix made column by column.
    Elsewhere it is `fourier_bound`. Computed in float64 and raised by 1e-9 of itself: far beyond the rounding of an FFT and of
    Hermitian eigenvalues, though no proof by interval arithmetic.

    Args:
        layer: the layer, or its map.
        size: height and width of its input; (1, 1) of a linear layer.

    Raises:
        UserError: as `convolution`.
    """
    conv = convolution(layer)
    entries = conv.channels * math.prod(size)
    one = size == (1, 1) and conv.kernel.shape[2:] != (1, 1)  # of a kernel on one position most never meets it
    if not one and (entries > EXACT or size == (1, 1)):
        return fourier_bound(conv, size)
    units = torch.eye(entries, dtype=torch.float64).reshape(entries, conv.channels, *size)
    return _largest(apply(conv, units).flatten(1)[None]) * (1 + SLACK)


@torch.no_grad()
def fourier_bound(conv: Convolution, size: tuple[int, int]) -> float:
    """Return the norm of a circular convolution of which the convolution with zero padding is a part.

    Example:
        >>> fourier_bound(Convolution(torch.eye(2, dtype=torch.float64)[:, :, None, None]), (8, 8))
        1.000000001

    Proof. Cut both paddings to `d (k - 1)`: what lies beyond gives zeros. On a torus of N >= H + p positions, p the larger of the
    two, the padded image is the image with zeros around it, which both sides may share, and no two outputs have one position. So
    each output is another one of the circular convolution on the torus, whose norm therefore bounds it. Let N be a multiple of the
    stride s: keeping one position in s maps the frequencies `w + j N / s`, j = 0 .. s - 1, to one, by phases over sqrt(s). The
    norm of that is the largest of `[K(w), K(w + N / s), ...] / sqrt(s)` over w, with K the symbol; at stride 1 the largest K(w).

    It is exact for linear layers and for windows that do not overlap.

    Source: the symbol: Sedghi, Gupta, Long, ICLR 2019, arXiv 1805.10408; the strided case: aliasing, as above.
    """
    left, right, top, bottom = conv.padding
    torus = tuple(
        _multiple(extent + min(max(pads), d * (k - 1)), s)
        for extent, pads, k, s, d in zip(
            size, ((top, bottom), (left, right)), conv.kernel.shape[2:], conv.stride, conv.dilation, strict=True
        )
    )
    symbol = _symbol(conv, (torus[0], torus[1]))
    (sh, sw), (groups, filters, channels) = conv.stride, symbol.shape[:3]
    mh, mw = torus[0] // sh, torus[1] // sw
    aliased = symbol.reshape(groups, filters, channels, sh, mh, sw, mw)[..., : mw // 2 + 1]  # the other half is conjugate
    matrices = aliased.permute(0, 4, 6, 1, 2, 3, 5).reshape(-1, filters, channels * sh * sw) / math.sqrt(sh * sw)
    largest = max(_largest(part) for part in matrices.split(max(1, CHUNK // matrices[0].numel())))
    return largest * (1 + SLACK)


@torch.no_grad()
def circular_singular_values(layer: LinearLayer | Convolution, size: tuple[int, int]) -> Tensor:
    """Return all singular values of the circular convolution at stride 1, descending, float64.

    Example:
        >>> circular_singular_values(nn.Conv2d(1, 2, 3, padding=1), (8, 8)).shape
        torch.Size([64])

    It is the convolution without borders: images are taken as periodic. Of factors, and of a layer with more filters than channels,
    the zeros that the shape forces are left out. `H * W * min(r, F, Cin)` values for one group.

    Source: Sedghi, Gupta, Long, ICLR 2019, arXiv 1805.10408, theorem 6.
    """
    symbol = _symbol(convolution(layer), size)
    return torch.linalg.svdvals(symbol.permute(0, 3, 4, 1, 2)).flatten().sort(descending=True).values


def _multiple(least: int, of: int) -> int:
    return -(-least // of) * of


def _symbol(conv: Convolution, torus: tuple[int, int]) -> Tensor:
    """Return the discrete Fourier transform of the kernel on the torus, (groups, F / groups, Cin / groups, H, W)."""
    filters, channels, kh, kw = conv.kernel.shape
    (height, width), (dh, dw) = torus, conv.dilation
    rows, columns = torch.arange(kh) * dh % height, torch.arange(kw) * dw % width
    grid = conv.kernel.new_zeros(filters, channels, height * width)
    grid.index_add_(2, (rows[:, None] * width + columns).flatten(), conv.kernel.flatten(2))
    return torch.fft.fft2(grid.reshape(conv.groups, filters // conv.groups, channels, height, width))


def _largest(matrices: Tensor) -> float:
    """Return the largest singular value of a stack, from the smaller Gram matrices of it brought to size 1."""
    size = float(matrices.abs().max()) if matrices.numel() else 0.0
    if size == 0:
        return 0.0
    matrices = matrices / size
    rows, columns = matrices.shape[1:]
    gram = matrices @ matrices.mH if rows <= columns else matrices.mH @ matrices
    return size * math.sqrt(max(0.0, float(torch.linalg.eigvalsh(gram)[:, -1].max())))
