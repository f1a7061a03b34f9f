"""The methods on whole matrices, with moments that are whole matrices too: slow, plain, and what the package must agree with."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.methods import CondLR, GalerkinMethod, Method

LEAST = 0.01  # of the mean of all rows, or columns, that the mean square of one counts as


class Momentum:
    """SGD's momentum, projected on every tangent space that it meets."""

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum, self.moment = momentum, torch.zeros(())

    def meet(self, gradient: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """Project the moment on a tangent space, and return the gradient's projection."""
        g = linalg.tangent(gradient, u, v)
        self.moment = linalg.tangent(self.moment, u, v) if self.moment.ndim else torch.zeros_like(g)
        return g

    def direction(self, gradient: Tensor, u: Tensor, v: Tensor, *, keep: bool = True) -> Tensor:
        """Return the direction of a step; with `keep` the moments take the gradient in."""
        moment = self.meet(gradient, u, v) + self.momentum * self.moment
        if keep:
            self.moment = moment
        return moment


class Adam(Momentum):
    """Adam's moments: the first like a momentum, the second of rows and columns (methods (70)-(75))."""

    def __init__(self, first: float = 0.9, second: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(first)
        self.second, self.eps, self.steps = second, eps, 0
        self.squares: Sequence[Tensor] = (torch.zeros(()), torch.zeros(()))

    def direction(self, gradient: Tensor, u: Tensor, v: Tensor, *, keep: bool = True) -> Tensor:
        g = self.meet(gradient, u, v)
        moment = self.momentum * self.moment + (1 - self.momentum) * g
        squares = [self.second * old + (1 - self.second) * g.square().mean(i) for old, i in zip(self.squares, (1, 0), strict=True)]
        steps = self.steps + 1
        if keep:
            self.steps, self.moment, self.squares = steps, moment, squares
        rows, columns = (square / (1 - self.second**steps) for square in squares)
        overall = rows.mean().sqrt()
        rows, columns = (each.clamp(min=LEAST * each.mean()).sqrt() + self.eps for each in (rows, columns))
        return linalg.tangent(overall * moment / (1 - self.momentum**steps) / (rows[:, None] * columns), u, v)


def leading(w: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular triplets of a matrix."""
    u, sigma, vh = torch.linalg.svd(w, full_matrices=False)
    return u[:, :rank], sigma[:rank].diag(), vh[:rank].T


def widened(basis: Tensor, direction: Tensor) -> Tensor:
    """Return orthonormal columns that span a basis and the range of a direction."""
    n, r = basis.shape
    outside = linalg.project_out(basis, direction)
    return torch.cat([basis, torch.linalg.svd(outside, full_matrices=False).U[:, : min(r, n - r)]], 1)


def enlarged(window: int | None) -> float:
    """Return the factor of what reaches outside the bases, on the batch that turns them (methods (78))."""
    return {None: 1.0, 1: 2.0}.get(window, math.sqrt((window or 0) + 1))


def train(
    method: Method,
    factors: tuple[Tensor, Tensor, Tensor],
    gradient: Callable[[Tensor], Tensor],
    state: Momentum,
    *,
    lr: float,
    turns: int,
    window: int | None = None,
) -> Tensor:
    """Return W after the bases have turned so often: by exact steps, or by whole windows of amortised ones.

    Args:
        factors: U, S and V at the start.
        gradient: dLoss/dW at any W.
        window: core steps between two truncations; `None` for exact steps.
    """
    u, s, v = factors
    w, rank = u @ s @ v.T, len(s)
    for _ in range(turns):
        if isinstance(method, CondLR):
            d = state.direction(gradient(w), u, v)
            inverse = torch.linalg.inv(s)
            moved = s - lr * u.T @ d @ v
            u, v = (
                linalg.RETRACTIONS[method.retraction](basis - lr * linalg.project_out(basis, part))
                for basis, part in ((u, d @ v @ inverse), (v, d.T @ u @ inverse.T))
            )
            s = moved
            w = u @ s @ v.T
            continue
        assert isinstance(method, GalerkinMethod)
        at_once = window is not None or not method.core_steps
        d = state.direction(gradient(w), u, v, keep=at_once)
        if method.adaptive or method.name == "rgd":
            inside = u @ (u.T @ d @ v) @ v.T
            if at_once:
                w = w - lr * (inside + enlarged(window) * (d - inside))
            u, v = widened(u, d), widened(v, d.T)
        else:
            u, v = linalg.orth((w - lr * d) @ v), linalg.orth((w - lr * d).T @ u)
            w = u @ (u.T @ w @ v) @ v.T
        for _ in range(method.core_steps if window is None else window):
            d = state.direction(gradient(w), u, v)
            w = w - lr * u @ (u.T @ d @ v) @ v.T
        u, s, v = leading(w, rank)
        w = u @ s @ v.T
    return w
