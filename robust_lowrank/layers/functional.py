"""Factored layers have one backward pass for all projected gradients, and never form their weight.

What the slots of the factors receive is said in `merging`. Derivatives of second order, and those that `torch.func` takes, are
those of the dense layer with the merged weight.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function, forward_ad

from robust_lowrank import linalg
from robust_lowrank.layers.convolution import ConvGeometry, convolution_gradients, convolve, point
from robust_lowrank.layers.merging import fit_to_slot, frame, merge
from robust_lowrank.layers.seen import Passes, Seen
from robust_lowrank.linalg import Factors

Gradients = tuple[Tensor | None, ...]  # of a core and its bases
FEW_PIXELS = 32  # of one image: so few fill no product of matrices, and those of a batch are put side by side


def low_rank_linear(x: Tensor, u: Tensor, s: Tensor, v: Tensor, bias: Tensor | None = None, seen: Passes | None = None) -> Tensor:
    """Return `x V S^T U^T + b` for x (..., m), U (n, r), S (r, r'), V (m, r') and b (n)."""
    return _apply(_LowRankLinear, x, u, s, v, bias, seen)


def low_rank_conv(
    x: Tensor, u: Tensor, s: Tensor, v: Tensor, kernel: tuple[int, ...], geometry: ConvGeometry, seen: Passes | None = None
) -> Tensor:
    """Return the convolution of x (B, Cin, ...) with the kernel U S V^T, V (Cin * prod(kernel), r') holding spatial filters."""
    return _apply(_LowRankConv, x, u, s, v, kernel, geometry, seen)


def tucker_conv2d(x: Tensor, c: Tensor, bases: Sequence[Tensor], geometry: ConvGeometry, seen: Passes | None = None) -> Tensor:
    """Return the convolution of x (B, Cin, H, W) with C x_1 U1 x_2 U2, C (r1, r2, kh, kw), U1 (F, r1), U2 (Cin, r2).

    Two more bases U3 (kh, r3) and U4 (kw, r4) act on a core (r1, r2, r3, r4).
    """
    return _apply(_TuckerConv2d, x, geometry, seen, c, *bases)


def linear_gradients(seen: Seen, u: Tensor, s: Tensor, v: Tensor, *, sides: bool) -> Gradients:
    """Return what the slots of (S, U, V) receive from a pass seen, without its weight; U and V begin with those of the pass."""
    x, delta, a, e = (tensor.reshape(-1, tensor.shape[-1]) for tensor in seen[:4])
    kind = delta.dtype
    a = torch.cat([a, x @ v[:, a.shape[1] :].to(kind)], 1)
    e = torch.cat([e, delta @ u[:, e.shape[1] :].to(kind)], 1)
    ds = (e.T @ a).to(s.dtype)
    if not sides:
        return ds, None, None
    return ds, fit_to_slot((delta.T @ a).to(u.dtype), u), fit_to_slot((x.T @ e).to(v.dtype), v)


def conv_gradients(
    seen: Seen, u: Tensor, s: Tensor, v: Tensor, kernel: tuple[int, ...], geometry: ConvGeometry, *, sides: bool
) -> Gradients:
    """Return what the slots of (S, U, V) receive from a pass seen, without its weight; U and V begin with those of the pass."""
    x, delta, a, e, _ = seen
    kind = delta.dtype
    filters = v.to(kind).T.reshape(v.shape[1], x.shape[1], *kernel)
    a = _extended(a, lambda known: convolve(x, filters[known:], geometry), v.shape[1])
    e = _extended(e, lambda known: _pointwise(delta, u[:, known:].to(kind).T), u.shape[1])
    ds = pointwise_weight_gradient(e, a).to(s.dtype)
    if not sides:
        return ds, None, None
    inner = x.new_empty((e.shape[1], x.shape[1], *kernel))
    dl = _weight_gradient(e, x, inner, geometry).flatten(1).T.to(v.dtype)
    return ds, fit_to_slot(pointwise_weight_gradient(delta, a).to(u.dtype), u), fit_to_slot(dl, v)


def tucker_gradients(seen: Seen, c: Tensor, bases: Sequence[Tensor], geometry: ConvGeometry, *, sides: bool) -> Gradients:
    """Return what the slots of (C, U1, U2, ...) receive from a pass seen, without its weight; the bases begin with its own."""
    x, delta, a, e, _ = seen
    a = _extended(a, lambda known: _pointwise(x, bases[1][:, known:].to(x.dtype).T), bases[1].shape[1])
    e = _extended(e, lambda known: _pointwise(delta, bases[0][:, known:].to(delta.dtype).T), bases[0].shape[1])
    return _tucker_slots((x, delta, a, e), c, bases, geometry, core=True, sides=[sides] * len(bases))


def _extended(parts: Tensor, further: Callable[[int], Tensor], size: int) -> Tensor:
    """Return parts within a basis with those within its further columns."""
    return parts if parts.shape[1] == size else torch.cat([parts, further(parts.shape[1])], 1)


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


def _show(seen: Passes | None, tensors: tuple[Tensor, Tensor, Tensor, Tensor], core: Tensor | None, *sides: Tensor | None) -> None:
    """Add a backward pass to those seen if it has reached all factors."""
    if seen is not None and core is not None and all(side is not None for side in sides):
        seen.show(Seen(*tensors, core))


class _Chain(Function):
    """A function of an input and factors that is taken for the dense layer's where gradients are themselves differentiated.

    Where no gradient is needed, dynamo leaves out the context of a `forward` that has as many names as arguments.
    """

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
    def dense(*arguments: Any) -> Tensor:
        x, u, s, v, bias, *_ = arguments
        return F.linear(x, merge(Factors(s, (u, v))).to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, u, s, v, bias, ctx.seen = arguments
        a = x @ v.to(x.dtype)
        ctx.save_for_backward(x, a, u, s, v, bias)
        return _through(a, s.to(x.dtype).T, u.to(x.dtype).T, bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, u, s, v, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_dense(ctx, _LowRankLinear.dense, (x, u, s, v, bias, None), delta)
        kind = delta.dtype
        need_x, need_u, need_s, need_v, need_bias, _ = ctx.needs_input_grad
        e = delta @ u.to(kind)
        dx = _through(e, s.to(kind), v.to(kind).T) if need_x else None
        x, a, e, delta = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (x, a, e, delta))
        dk = (delta.T @ a).to(u.dtype) if need_u else None
        ds = (e.T @ a if dk is None else u.T @ dk).to(s.dtype) if need_s else None
        dl = (x.T @ e).to(v.dtype) if need_v else None
        _show(ctx.seen, (x, delta, a, e), ds, dk, dl)
        return dx, fit_to_slot(dk, u), ds, fit_to_slot(dl, v), delta.sum(0).to(bias.dtype) if need_bias else None, None


def _through(x: Tensor, core: Tensor, basis: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x C B^T + b for x (..., r), multiplied in the order that is cheaper, and no view: what follows may write into it."""
    y = x @ (core @ basis) if x.shape[:-1].numel() > basis.shape[1] else x @ core @ basis
    return y if bias is None else y.add_(bias.to(y.dtype))


class _LowRankConv(_Chain):
    @staticmethod
    def dense(*arguments: Any) -> Tensor:
        x, u, s, v, kernel, geometry, *_ = arguments
        return convolve(x, merge(Factors(s, (u, v))).reshape(len(u), x.shape[1], *kernel).to(x.dtype), geometry)

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, s: Tensor, v: Tensor, *options: Any) -> Tensor:
        kernel, geometry, ctx.seen = options
        filters = v.to(x.dtype).T.reshape(v.shape[1], x.shape[1], *kernel)
        a = convolve(x, filters, geometry)
        ctx.save_for_backward(x, a, u, s, v)
        ctx.kernel, ctx.geometry = kernel, geometry
        return _pointwise(a, (u @ s).to(x.dtype))

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, u, s, v = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_dense(ctx, _LowRankConv.dense, (x, u, s, v, ctx.kernel, ctx.geometry, None), delta)
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
        _show(ctx.seen, (x, delta, a, e), ds, dk, dl)
        return dx, fit_to_slot(dk, u), ds, fit_to_slot(dl, v), None, None, None


class _TuckerConv2d(_Chain):
    @staticmethod
    def dense(*arguments: Any) -> Tensor:
        x, geometry, _, c, *bases = arguments
        return convolve(x, merge(Factors(c, tuple(bases))).to(x.dtype), geometry)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, geometry, ctx.seen, c, *bases = arguments
        u1, u2 = bases[:2]
        a = _pointwise(x, u2.to(x.dtype).T)
        ctx.save_for_backward(x, a, c, *bases)
        ctx.geometry = geometry
        return _pointwise(convolve(a, spatial_core(c, bases).to(x.dtype), geometry), u1.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, a, c, *bases = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _gradients_of_dense(ctx, _TuckerConv2d.dense, (x, ctx.geometry, None, c, *bases), delta)
        kind = delta.dtype
        need_x, _, _, need_c, *need_bases = ctx.needs_input_grad
        u1, u2 = bases[:2]
        geometry = ctx.geometry
        e = _pointwise(delta, u1.to(kind).T)
        dx = None
        if need_x:
            dx = _pointwise(_input_gradient(e, a, spatial_core(c, bases).to(kind), geometry), u2.to(kind))
        tensors = (x, delta, a, e)
        dc, *dk = _tucker_slots(tensors, c, bases, geometry, core=need_c, sides=need_bases)
        _show(ctx.seen, tensors, dc, *dk)
        return dx, None, None, dc, *dk


def _tucker_slots(
    tensors: tuple[Tensor, ...], c: Tensor, bases: Sequence[Tensor], geometry: ConvGeometry, *, core: bool, sides: Sequence[bool]
) -> Gradients:
    """Return what the slots of core and bases receive of a pass, where they are wanted."""
    x, delta, a, e = tensors
    spatial = functools.partial(spatial_core, bases=bases)
    dk: list[Tensor | None] = [None] * len(bases)
    if sides[0]:
        z = convolve(a, spatial(frame(c, 0)).to(a.dtype), geometry)
        dk[0] = pointwise_weight_gradient(delta, z).to(bases[0].dtype)
    if sides[1]:
        z = _input_gradient(e, a, spatial(frame(c, 1)).to(a.dtype), geometry)
        dk[1] = pointwise_weight_gradient(x, z).to(bases[1].dtype)
    dc = None
    if core or any(sides[2:]):
        g = _weight_gradient(e, a, spatial(c).to(a.dtype), geometry).to(c.dtype)
        maps = dict(enumerate((basis.T for basis in bases[2:]), start=2))
        dc = _mode_products(g, maps)
        for mode in maps:
            if sides[mode]:
                others = _mode_products(g, {j: map_ for j, map_ in maps.items() if j != mode})
                dk[mode] = linalg.unfold(others, mode) @ linalg.unfold(frame(c, mode), mode).T
    return dc, *dk


def spatial_core(c: Tensor, bases: Sequence[Tensor]) -> Tensor:
    """Return a Tucker core with its kernel modes whole (r1, r2, kh, kw)."""
    return _mode_products(c, dict(enumerate(bases[2:], start=2)))


def _mode_products(tensor: Tensor, matrices: Mapping[int, Tensor]) -> Tensor:
    for mode, matrix in matrices.items():
        tensor = linalg.mode_product(tensor, matrix, mode)
    return tensor
