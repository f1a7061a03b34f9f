"""A merged weight is formed of factors, whose slots receive the projected gradients of one backward pass.

Of a matrix W = U S V^T with the gradient G the slots of (U, S, V) receive (dK, dS, dL) = (G V, U^T G V, G^T U) (methods (2b)).
Where the core is not square, one basis is complete and what its slot lacks follows from dS (`fit_to_slot`). Of a Tucker kernel
W = C x_i U_i the slots of the bases receive dL/dK_i, where K_i = U_i S_i and Mat_i(C) = S_i Q_i^T. No inverse of the core is taken.

These are the derivatives of the weight in the affine chart W + dK V^T + U dS V^T + U dL^T of its tangent space, and so are all
others, forward and of higher order: the bases count as constants.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from robust_lowrank import linalg
from robust_lowrank.layers.compiling import is_open
from robust_lowrank.linalg import Factors


def merge(factors: Factors) -> Tensor:
    """Return the weight of factors: U S V^T, also of stacks of three dimensions, or C x_i U_i.

    Example:
        >>> u, s, v = (torch.eye(2, requires_grad=True) for _ in range(3))
        >>> merge(Factors(s, (u, v))).sum().backward()
        >>> u.grad  # G V
        tensor([[1., 1.],
                [1., 1.]])
    """
    tensors = (factors.core, *factors.bases)
    with torch.autocast(factors.core.device.type, enabled=False):
        if not torch.compiler.is_compiling():
            return _ForwardMerge.apply(*tensors)  # pyright: ignore[reportReturnType]
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return _Merge.apply(*tensors)  # pyright: ignore[reportReturnType]
        return _Merge.forward(*tensors)  # to which dynamo would give a context


def merge_stack(stack: Sequence[Factors]) -> Tensor:
    """Return the weights (k, n, m) of k matrices whose factors have the same shapes, formed together."""
    core = torch.stack([factors.core for factors in stack])
    u, v = (torch.stack([factors.bases[side] for factors in stack]) for side in (0, 1))
    return merge(Factors(core, (u, v)))


def fit_to_slot(side: Tensor | None, basis: Tensor) -> Tensor | None:
    """Return dK or dL with as many columns as its basis has: zeros are added, or what dS tells of a complete basis is left out."""
    columns = basis.shape[-1]
    if side is None:
        return None
    if is_open(side.shape[-1], columns):  # a compiler would ask which is larger, and be held to the answer
        return F.pad(side, (0, columns))[..., :columns]
    return side if side.shape[-1] == columns else F.pad(side, (0, columns - side.shape[-1]))


def sides_of_slots(sides: Sequence[Tensor], core: Tensor, bases: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return dK (n, r') and dL (m, r) from their slots and dS (r, r'): U dS where U is complete, V dS^T where V is."""
    (u, v), (k, side), (rows, columns) = bases, sides, core.shape
    if rows == columns:
        return k, side
    return (u @ core, side[:, :rows]) if rows < columns else (k[:, :columns], v @ core.T)


def frame(core: Tensor, mode: int) -> Tensor:
    """Return the core whose mode-i unfolding is Q_i^T, where Mat_i(C) = S_i Q_i^T."""
    return linalg.fold(linalg.row_basis(core, mode).T, mode, core.shape)


class _Merge(Function):
    """What compilers take: they know no forward derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*factors: Tensor) -> Tensor:
        core, *bases = factors
        return linalg.multi_product(core, bases) if _is_tucker(core) else bases[0] @ core @ bases[1].mT

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        core, *bases = (factor.detach() for factor in ctx.saved_tensors)
        with torch.autocast(g.device.type, enabled=False):
            return _slots(g, core, bases, ctx.needs_input_grad)


class _ForwardMerge(_Merge):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        core, *bases = (factor.detach() for factor in ctx.saved_tensors)
        total: Tensor | float = 0.0
        if tangents[0] is not None:
            total = total + _Merge.forward(tangents[0], *bases)
        for mode, side in enumerate(tangents[1:]):
            if side is None:
                continue
            if not _is_tucker(core):
                fitted = fit_to_slot(side, bases[1 - mode])
                assert fitted is not None
                total = total + (fitted @ bases[1].mT if mode == 0 else bases[0] @ fitted.mT)
            else:
                total = total + _but_one(linalg.mode_product(frame(core, mode), side, mode), bases, mode)
        assert isinstance(total, Tensor)
        return total


def _is_tucker(core: Tensor) -> bool:
    return core.dim() == 4


def _but_one(tensor: Tensor, matrices: Sequence[Tensor], left_out: int) -> Tensor:
    """Return the products with matrices on all modes but one."""
    for mode, matrix in enumerate(matrices):
        tensor = tensor if mode == left_out else linalg.mode_product(tensor, matrix, mode)
    return tensor


def _slots(g: Tensor, core: Tensor, bases: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Return the projected gradients of core and bases that are wanted."""
    if not _is_tucker(core):
        u, v = bases
        k = g @ v if wanted[0] or wanted[1] else None
        ds = u.mT @ k if wanted[0] and k is not None else None
        return ds, fit_to_slot(k, u) if wanted[1] else None, fit_to_slot(g.mT @ u if wanted[2] else None, v)
    slots: list[Tensor | None] = [linalg.multi_product(g, [basis.T for basis in bases]) if wanted[0] else None]
    for mode in range(len(bases)):
        if not wanted[mode + 1]:
            slots.append(None)
            continue
        others = _but_one(g, [basis.T for basis in bases], mode)
        slots.append(linalg.unfold(others, mode) @ linalg.unfold(frame(core, mode), mode).T)
    return tuple(slots)
