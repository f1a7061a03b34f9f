"""Factored layers have one backward pass for all projected gradients, and never form their weight.

What the slots of the factors receive is said in `merging`. Derivatives of second order, and those that `torch.func` takes, are
those of the dense layer with the merged weight.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from robust_lowrank import linalg
from robust_lowrank.layers.convolution import ConvGeometry, convolution_gradients, convolve, point
from robust_lowrank.layers.merging import fit_to_slot, frame, merge
from robust_lowrank.linalg import Factors

FEW_PIXELS = 32  # of one image: so few fill no product of matrices, and those of a batch are put side by side


def low_rank_linear(x: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Return `x V S^T U^T` for x (..., m), U (n, r), S (r, r'), V (m, r')."""
    return _apply(_LowRankLinear, x, u, s, v)


def low_rank_conv(x: Tensor, u: Tensor, s: Tensor, v: Tensor, kernel: tuple[int, ...], geometry: ConvGeometry) -> Tensor:
    """Return the convolution of x (B, Cin, ...) with the kernel U S V^T, V (Cin * prod(kernel), r') holding spatial filters."""
    return _apply(_LowRankConv, x, u, s, v, kernel, geometry)


def tucker_conv2d(x: Tensor, c: Tensor, bases: Sequence[Tensor], geometry: ConvGeometry) -> Tensor:
    """Return the convolution of x (B, Cin, H, W) with C x_1 U1 x_2 U2, C (r1, r2, kh, kw), U1 (F, r1), U2 (Cin, r2).

    Two more bases U3 (kh, r3) and U4 (kw, r4) act on a core (r1, r2, r3, r4).
    """
    return _apply(_TuckerConv2d, x, geometry, c, *bases)


def _apply(function: type["_Chain"], x: Tensor, *arguments: Any) -> Tensor:
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    with torch.autocast(kind, enabled=False):
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:  # they get the rules of the dense layer
            return function.dense(x, *arguments)
        return function.apply(x, *arguments)  # pyright: ignore[reportReturnType]


def _pointwise(x: Tensor, matrix: Tensor) -> Tensor:
    slides = x.dim() - 2
    return convolve(x, matrix[(..., *[None] * slides)], point(slides))


def pointwise_weight_gradient(delta: Tensor, x: Tensor) -> Tensor:
    """Return the gradient (F, C) of a 1 x 1 kernel from that of its outputs (B, F, ...) and from its inputs (B, C, ...)."""
    delta, x = delta.flatten(2), x.flatten(2)
    if delta.shape[2] > FEW_PIXELS:
        return torch.bmm(delta, x.mT).sum(0)
    return delta.transpose(0, 1).flatten(1) @ x.transpose(0, 1).flatten(1).T


def _input_gradient(delta: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    return convolution_gradients(delta, x, weight, geometry, wanted=(True, False))[0]


def _weight_gradient(delta: Tensor, x: Tensor, weight: Tensor, geometry: ConvGeometry) -> Tensor:
    return convolution_gradients(delta, x, weight, geometry, wanted=(False, True))[1]


class _Chain(Function):
    """A function of an input and factors that is taken for the dense layer's where gradients are themselves differentiated."""

    @staticmethod
    def dense(*arguments: Any) -> Tensor:
        """Return the same by way of the merged weight."""
        raise NotImplementedError


def _gradients_of_dense(ctx: Any, dense: Callable[..., Tensor], arguments: Sequence[Any], delta: Tensor) -> tuple[Any, ...]:
    """Return the gradients of the dense layer's arguments, with a graph of their own."""
    wanted = [each for each, need in zip(arguments, ctx.needs_input_grad, strict=True) if need]
    with torch.autocast(delta.device.type, enabled=False):
        found = iter(torch.autograd.grad(dense(*arguments), wanted, delta, create_graph=True))
    return tuple(next(found) if need else None for need in ctx.needs_input_grad)


class _LowRankLinear(_Chain):
    @staticmethod
    def dense(*arguments: Tensor) -> Tensor:
        x, u, s, v = arguments
        return F.linear(x, merge(Factors(s, (u, v))).to(x.dtype))

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, s: Tensor, v: Tensor) -> Tensor:
        a = x @ v.to(x.dtype)
        ctx.save_for_backward(x, a, u, s, v)
        return a @ s.to(x.dtype).T @ u.to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, u, s, v = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_dense(ctx, _LowRankLinear.dense, (x, u, s, v), delta)
        kind = delta.dtype
        need_x, need_u, need_s, need_v = ctx.needs_input_grad
        e = delta @ u.to(kind)
        dx = e @ s.to(kind) @ v.to(kind).T if need_x else None
        x, a, e, delta = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (x, a, e, delta))
        dk = (delta.T @ a).to(u.dtype) if need_u else None
        ds = (e.T @ a if dk is None else u.T @ dk).to(s.dtype) if need_s else None
        dl = (x.T @ e).to(v.dtype) if need_v else None
        return dx, fit_to_slot(dk, u), ds, fit_to_slot(dl, v)


class _LowRankConv(_Chain):
    @staticmethod
    def dense(*arguments: Any) -> Tensor:
        x, u, s, v, kernel, geometry = arguments
        return convolve(x, merge(Factors(s, (u, v))).reshape(len(u), x.shape[1], *kernel).to(x.dtype), geometry)

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, s: Tensor, v: Tensor, kernel: tuple[int, ...], geometry: ConvGeometry) -> Tensor:
        filters = v.to(x.dtype).T.reshape(v.shape[1], x.shape[1], *kernel)
        a = convolve(x, filters, geometry)
        ctx.save_for_backward(x, a, u, s, v)
        ctx.kernel, ctx.geometry = kernel, geometry
        return _pointwise(a, (u @ s).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, u, s, v = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_dense(ctx, _LowRankConv.dense, (x, u, s, v, ctx.kernel, ctx.geometry), delta)
        kind = delta.dtype
        need_x, need_u, need_s, need_v = ctx.needs_input_grad[:4]
        e = _pointwise(delta, u.to(kind).T)
        inner = (s @ v.T).to(kind).reshape(u.shape[1], x.shape[1], *ctx.kernel)  # with gradient dL
        dx = dk = ds = dl = None
        if need_x or need_v:
            dx, dl = convolution_gradients(e, x, inner, ctx.geometry, wanted=(need_x, need_v))
        if dl is not None:
            dl = dl.flatten(1).T.to(v.dtype)
        if need_u:
            dk = pointwise_weight_gradient(delta, a).to(u.dtype)
        if need_s:
            ds = (pointwise_weight_gradient(e, a) if dk is None else u.T @ dk).to(s.dtype)
        return dx, fit_to_slot(dk, u), ds, fit_to_slot(dl, v), None, None


class _TuckerConv2d(_Chain):
    @staticmethod
    def dense(*arguments: Any) -> Tensor:
        x, geometry, c, *bases = arguments
        return convolve(x, merge(Factors(c, tuple(bases))).to(x.dtype), geometry)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:  # more names, and dynamo takes x for the context where no gradient is needed
        x, geometry, c, *bases = arguments
        u1, u2 = bases[:2]
        a = _pointwise(x, u2.to(x.dtype).T)
        ctx.save_for_backward(x, a, c, *bases)
        ctx.geometry = geometry
        return _pointwise(convolve(a, spatial_core(c, bases).to(x.dtype), geometry), u1.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, c, *bases = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_dense(ctx, _TuckerConv2d.dense, (x, ctx.geometry, c, *bases), delta)
        kind = delta.dtype
        need_x, _, need_c, *need_bases = ctx.needs_input_grad
        u1, u2, *kernel_bases = bases
        geometry = ctx.geometry
        e = _pointwise(delta, u1.to(kind).T)
        dx = dc = None
        if need_x:
            dx = _pointwise(_input_gradient(e, a, spatial_core(c, bases).to(kind), geometry), u2.to(kind))
        dk: list[Tensor | None] = [None] * len(bases)
        if need_bases[0]:
            z = convolve(a, spatial_core(frame(c, 0), bases).to(kind), geometry)
            dk[0] = pointwise_weight_gradient(delta, z).to(u1.dtype)
        if need_bases[1]:
            z = _input_gradient(e, a, spatial_core(frame(c, 1), bases).to(kind), geometry)
            dk[1] = pointwise_weight_gradient(x, z).to(u2.dtype)
        if need_c or any(need_bases[2:]):
            g = _weight_gradient(e, a, spatial_core(c, bases).to(kind), geometry).to(c.dtype)
            maps = dict(enumerate((basis.T for basis in kernel_bases), start=2))
            dc = _mode_products(g, maps)
            for mode in maps:
                if need_bases[mode]:
                    others = _mode_products(g, {j: map_ for j, map_ in maps.items() if j != mode})
                    dk[mode] = linalg.unfold(others, mode) @ linalg.unfold(frame(c, mode), mode).T
        return dx, None, dc, *dk


def spatial_core(c: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """Return a Tucker core with its kernel modes whole (r1, r2, kh, kw)."""
    return _mode_products(c, dict(enumerate(bases[2:], start=2)))


def _mode_products(tensor: Tensor, matrices: Mapping[int, Tensor]) -> Tensor:
    for mode, matrix in matrices.items():
        tensor = linalg.mode_product(tensor, matrix, mode)
    return tensor
