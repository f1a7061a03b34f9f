"""Stiefel methods keep the shorter side of whole weights orthonormal, or nearly so: baselines.

All functions take X (p, n) with p <= n and orthonormal rows; a weight with more rows than columns is transposed first, and a kernel
is the matrix of its filters.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.retraction import Gradients, RetractionMethod

SAFE_DISTANCE = 0.5  # ||X X^T - I|| that Landing never exceeds
HALVINGS = 30  # of a step that would
COND_AT_SAFE_DISTANCE = 3**0.5  # all sigma_i^2 lie in 1 - 0.5 .. 1 + 0.5


def on_rows(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return a function of matrices (p, n), p <= n, of tensors that are weights or kernels of one shape, in that shape."""
    first = tensors[0].flatten(1)
    if first.shape[0] <= first.shape[1]:
        return function(*(tensor.flatten(1) for tensor in tensors)).reshape(tensors[0].shape)
    return function(*(tensor.flatten(1).T for tensor in tensors)).T.reshape(tensors[0].shape)


def nearest(w: Tensor) -> Tensor:
    """Return the matrix with orthonormal rows that is nearest to one of full rank: its polar factor."""
    return linalg.polar(w.T).T


def tangent(x: Tensor, z: Tensor) -> Tensor:
    """Return the orthogonal projection Z - sym(Z X^T) X on the tangent space at X."""
    square = z @ x.T
    return z - (square + square.T) / 2 @ x


def cayley(x: Tensor, step: Tensor, sweeps: int) -> Tensor:
    """Return the Cayley transform (I - K/2)^{-1} (I + K/2) X^T, transposed, by so many sweeps of its fixed point.

    K = A X - X^T A^T, with A = N - X^T (X N) / 2 and N the transposed step, is the skew matrix that turns X along the step's
    tangent part. It is never formed. A step with ||K|| > 1 is shortened to that length, where the sweeps converge.
    """
    n = step.T
    a = n - x.T @ (x @ n) / 2
    xa = x @ a
    length = (2 * ((a.T @ a) * (x @ x.T)).sum() - 2 * (xa * xa.T).sum()).clamp(min=0).sqrt()
    scale = 1 / length.clamp(min=1)

    def turned(y: Tensor) -> Tensor:
        return scale * (a @ (x @ y) - x.T @ (a.T @ y))

    y = x.T + scale * n
    for _ in range(sweeps):
        y = x.T + turned(x.T + y) / 2
    return y.T


def landing_field(x: Tensor, g: Tensor, attraction: float) -> Tensor:
    """Return X skew(X^T G) + attraction (X X^T - I) X, whose descent ends on the manifold without a retraction."""
    gram = x @ x.T
    return (gram @ g - x @ g.T @ x) / 2 + attraction * (gram @ x - x)


def halve_until_safe(x: Tensor, step: Tensor) -> Tensor:
    """Return X plus the step, halved until ||X X^T - I|| <= 1/2 holds; all halvings are looked at at once, on the device.

    Where no halving holds, the one that comes nearest is taken, or X stays if none comes nearer than it is.
    """
    off = x @ x.T - torch.eye(len(x), dtype=x.dtype, device=x.device)
    linear, quadratic = x @ step.T, step @ step.T
    linear = linear + linear.T
    t = 2.0 ** -torch.arange(HALVINGS, dtype=x.dtype, device=x.device)
    squares = (
        off.square().sum()
        + 2 * t * (off * linear).sum()
        + t**2 * (linear.square().sum() + 2 * (off * quadratic).sum())
        + 2 * t**3 * (linear * quadratic).sum()
        + t**4 * quadratic.square().sum()
    )
    squares = squares.nan_to_num(nan=math.inf)
    fits = squares <= SAFE_DISTANCE**2
    chosen = torch.where(fits.any(), fits.to(torch.int8).argmax(), squares.argmin())
    moves = fits.any() | (squares.min() < off.square().sum())
    return torch.where(moves, x + t.gather(0, chosen[None]) * step, x)


class _Stiefel(RetractionMethod):
    ranked: ClassVar[bool] = False

    @property
    def form(self) -> str:
        """One tensor."""
        return "whole"

    @property
    def cond_bound(self) -> float:
        """An orthonormal matrix has the condition number 1."""
        return 1.0

    def project(self, factors: Factors) -> Factors:
        """Return the nearest point of the manifold."""
        return factors._replace(core=on_rows(nearest, factors.core))

    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return the gradient's tangent part."""
        return Factors(on_rows(tangent, factors.core, gradients.core), ())

    def retract(self, factors: Factors, increments: Factors) -> Factors:
        """Return the moved weight."""
        return Factors(on_rows(self.move, factors.core, increments.core), ())

    def transport(self, moments: Factors, factors: Factors) -> Factors:
        """Return the moments' tangent part at the present point."""
        return Factors(on_rows(tangent, factors.core, moments.core), ())

    @abstractmethod
    def move(self, x: Tensor, step: Tensor) -> Tensor:
        """Return the point after a step from X."""


@dataclass(frozen=True, kw_only=True)
class ProjectedSGD(_Stiefel):
    """Descend along the Riemannian gradient of orthonormal weights, and retract.

    Args:
        retraction: `qr` or `polar`.

    Example:
        >>> ProjectedSGD().cond_bound
        1.0

    Source: Absil, Malick 2012, "Projection-like retractions on matrix manifolds".
    """

    name: ClassVar[str] = "projected-sgd"
    retraction: linalg.Retraction = "qr"

    def __post_init__(self) -> None:
        if self.retraction not in get_args(linalg.Retraction):
            raise unknown_name("retraction", str(self.retraction), get_args(linalg.Retraction))

    def move(self, x: Tensor, step: Tensor) -> Tensor:
        """Return the retraction of X plus the step's tangent part."""
        return linalg.RETRACTIONS[self.retraction]((x + tangent(x, step)).T).T


@dataclass(frozen=True, kw_only=True)
class CayleySGD(_Stiefel):
    """Turn orthonormal weights by the Cayley transform of the step, by a fixed-point iteration.

    Two things differ from the paper. Its iterates are orthonormal only up to the error of the sweeps, so they are made so by QR now
    and then, at random; here every step ends with it. And a step is shortened by the Frobenius norm of K in place of its largest
    column sum, for which K would have to be formed.

    Args:
        sweeps: of the fixed-point iteration.

    Example:
        >>> CayleySGD(sweeps=2).form
        'whole'

    Source: Li, Li, Todorovic 2020, arXiv 2002.01113.
    """

    name: ClassVar[str] = "cayley-sgd"
    sweeps: int = 4

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise UserError(f"sweeps = {self.sweeps} is below 1: the fixed point needs at least one")

    def move(self, x: Tensor, step: Tensor) -> Tensor:
        """Return the Cayley transform, made orthonormal."""
        return linalg.qf(cayley(x, step, self.sweeps).T).T


@dataclass(frozen=True, kw_only=True)
class Landing(_Stiefel):
    """Descend along a field that holds weights near the manifold, without a retraction: ||X X^T - I|| <= 1/2 at any time.

    Args:
        attraction: the weight of the part of the field that leads back to the manifold.

    Example:
        >>> round(Landing().cond_bound, 3)
        1.732

    Source: Ablin, Peyré 2022, arXiv 2102.07432.
    """

    name: ClassVar[str] = "landing"
    attraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.attraction < float("inf"):
            raise UserError(f"attraction = {self.attraction} must be a positive number, or nothing leads back to the manifold")

    @property
    def cond_bound(self) -> float:
        """The bound at a distance of 1/2."""
        return COND_AT_SAFE_DISTANCE

    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return the landing field."""
        return Factors(on_rows(lambda x, g: landing_field(x, g, self.attraction), factors.core, gradients.core), ())

    def transport(self, moments: Factors, factors: Factors) -> Factors:
        """Return the moments as they are: the field is no tangent vector, nor are they."""
        return moments

    def move(self, x: Tensor, step: Tensor) -> Tensor:
        """Return X plus the step, shortened where it would leave the neighbourhood."""
        return halve_until_safe(x, step)
