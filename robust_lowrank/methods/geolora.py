"""GeoLoRA: Riemannian gradient descent with adaptive rank from one backward pass."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robust_lowrank.layers.base import Factors
from robust_lowrank.methods.base import Expansion, GalerkinMethod, Gradients, augment


@dataclass(frozen=True, kw_only=True)
class GeoLoRA(GalerkinMethod):
    """Move K, L and S at once from one evaluation, as one core step in the augmented bases, and truncate.

    Args:
        tol: relative truncation tolerance; `None` keeps the rank, which makes it Riemannian gradient descent with the SVD as
            retraction.
        min_rank, max_rank: ranks that truncation neither undercuts nor exceeds.

    Example:
        >>> GeoLoRA(tol=0.15).evaluations
        1

    Source: Schotthöfer, Zangrando, Ceruti, Tudisco, Kusch, ICLR 2025, arXiv 2410.18720.
    """

    name: ClassVar[str] = "geolora"
    tol: float | None = 0.1

    def expand(self, factors: Factors, gradients: Gradients, lr: float) -> Expansion:
        """Return the core in the augmented bases and its gradient there, P_T(G) (48b)."""
        expanded = augment(factors, gradients)
        return Expansion(expanded, tangent_gradient(factors, gradients, expanded.bases))


def tangent_gradient(factors: Factors, gradients: Gradients, bases: tuple[Tensor, ...]) -> Tensor:
    """Return U_hat^T P_T(G) V_hat = A dL^T V_hat + U_hat^T dK B^T - A dS B^T, with A = U_hat^T U and B = V_hat^T V.

    In a basis that starts with U and V it is the core gradient with the unknown block set to zero.
    """
    (u, v), (u_hat, v_hat) = factors.bases, bases
    ds, (dk, dl) = gradients
    a, b = u_hat.T @ u, v_hat.T @ v
    return torch.addmm(a @ (dl.T @ v_hat), u_hat.T @ dk - a @ ds, b.T)
