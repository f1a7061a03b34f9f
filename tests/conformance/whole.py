"""The methods on whole matrices, with moments that are whole matrices too: slow, plain, and what the package must agree with."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.methods import CondLR, GalerkinMethod, Method

LEAST = 1e-4  # of the mean of all eigenvalues of a covariance that one counts as


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
    """Adam's moments: the first like a momentum, the second of the directions that the bases span (methods (70)-(75))."""

    def __init__(self, first: float = 0.9, second: float = 0.999, eps: float = 1e-8) -> None:
        super().__init__(first)
        self.second, self.eps, self.steps = second, eps, 0
        self.held: list[tuple[Tensor, Tensor]] = []  # of each side a covariance, n × n, and the basis that it is in

    def direction(self, gradient: Tensor, u: Tensor, v: Tensor, *, keep: bool = True) -> Tensor:
        g = self.meet(gradient, u, v)
        moment = self.momentum * self.moment + (1 - self.momentum) * g
        self.held = [met(*old, basis) for old, basis in zip(self.held or [(0 * g @ g.T, u), (0 * g.T @ g, v)], (u, v), strict=True)]
        squares = [
            self.second * old + (1 - self.second) * basis @ basis.T @ x @ x.T @ basis @ basis.T
            for (old, _), basis, x in zip(self.held, (u, v), (g, g.T), strict=True)
        ]
        steps = self.steps + 1
        if keep:
            self.steps, self.moment = steps, moment
            self.held = list(zip(squares, (u, v), strict=True))
        (n, left), (m, right) = u.shape, v.shape
        levels = m, n
        a, b = (
            self.root(square / (1 - self.second**steps), basis, level)
            for square, basis, level in zip(squares, (u, v), levels, strict=True)
        )
        whole = moment / (1 - self.momentum**steps)
        white = a(-0.25) @ whole @ b(-0.25)
        white = white + (whole - u @ (u.T @ whole)) @ b(-0.5) + a(-0.5) @ (whole - whole @ v @ v.T)
        inside, outside = left * right / math.sqrt(n * m), ((n - left) * right / levels[1], (m - right) * left / levels[0])
        return white * math.sqrt(n * m / (inside + sum(outside)))

    def root(self, square: Tensor, basis: Tensor, level: float) -> Callable[[float], Tensor]:
        """Return the powers of a covariance within a basis."""
        values, vectors = torch.linalg.eigh(basis.T @ square @ basis)
        values = (values.maximum(values.mean() * LEAST).clamp(min=0).sqrt() + self.eps * math.sqrt(level)).square()
        vectors = basis @ vectors
        return lambda exponent: vectors @ torch.diag(values**exponent) @ vectors.T


def met(square: Tensor, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return a covariance within another basis; where that is not in the old one's span it is the mean of all directions there."""
    inside, outside = new @ new.T, torch.eye(len(new), dtype=new.dtype) - old @ old.T
    return inside @ (square + square.trace() / old.shape[1] * outside) @ inside, new


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
