"""StelLA keeps the bases of an update U S V^T orthonormal, under any Euclidean optimizer."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.retraction import Gradients, RetractionMethod


@dataclass(frozen=True, kw_only=True)
class StelLA(RetractionMethod):
    """Train W_pre + (alpha / r) U S V^T with U and V on the Stiefel manifold.

    The gradients of U and V are turned into Riemannian ones of the canonical metric and handed to the optimizer, whose moments are
    those of their entries; what it makes of them is projected on the tangent space and retracted by the polar factor.

    The paper also scales the steps of U and V by the network's width, which is left out here, and the update starts at zero, so
    that the function does.

    Example:
        >>> StelLA().adapter
        True

    Source: Li, Sajadmanesh, Li, Lyu, NeurIPS 2025, arXiv 2510.01938.
    """

    name: ClassVar[str] = "stella"
    adapter: ClassVar[bool] = True
    elementwise: ClassVar[bool] = True

    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return dS and the Riemannian gradients g_U - U g_U^T U and g_V - V g_V^T V, with g_U = dK S^T and g_V = dL S."""
        s, (u, v) = factors
        ds, (dk, dl) = gradients
        return Factors(ds, (riemannian(u, dk @ s.T), riemannian(v, dl @ s)))

    def retract(self, factors: Factors, increments: Factors) -> Factors:
        """Return the moved core and the polar factors of the moved bases."""
        moved = (
            linalg.polar(basis + tangent_part(basis, increment))
            for basis, increment in zip(factors.bases, increments.bases, strict=True)
        )
        return Factors(factors.core + increments.core, tuple(moved))


def riemannian(basis: Tensor, gradient: Tensor) -> Tensor:
    """Return G - U G^T U, the gradient of the canonical metric on the Stiefel manifold."""
    return gradient - basis @ (gradient.T @ basis)


def tangent_part(basis: Tensor, x: Tensor) -> Tensor:
    """Return X - U sym(U^T X), the projection on the tangent space at U."""
    square = basis.T @ x
    return x - basis @ (square + square.T) / 2
