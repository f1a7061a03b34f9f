"""DLRT: the basis-update & Galerkin integrator, at fixed rank or rank-adaptive, with two evaluations a step."""

from dataclasses import dataclass
from typing import ClassVar

from robust_lowrank import linalg
from robust_lowrank.layers.base import Factors
from robust_lowrank.methods.base import Expansion, GalerkinMethod, Gradients, augment, change_bases


@dataclass(frozen=True, kw_only=True)
class DLRT(GalerkinMethod):
    """Turn the bases by a K- and an L-step, then move the core between them.

    Args:
        tol: relative truncation tolerance: the rank follows the weight, dropping at most `tol` of its norm in a step; `None`
            keeps the rank, and the bases are those of the moved K and L alone.
        min_rank, max_rank: ranks that truncation neither undercuts nor exceeds.

    Example:
        >>> DLRT(tol=0.1).evaluations
        2

    Source: Schotthöfer, Zangrando, Kusch, Ceruti, Tudisco, NeurIPS 2022, arXiv 2205.13571.
    """

    name: ClassVar[str] = "dlrt"
    evaluations: ClassVar[int] = 2

    def expand(self, factors: Factors, gradients: Gradients, lr: float) -> Expansion:
        """Return the core in the augmented bases (36), or at fixed rank in those of the moved K and L (34)."""
        if self.tol is None:
            return Expansion(move_bases(factors, gradients, lr), None)
        return Expansion(augment(factors, gradients), None)

    def contract(self, factors: Factors, ranks: tuple[int, ...]) -> Factors:
        """Return the truncated factors (38); at fixed rank there is nothing to cut."""
        return factors if self.tol is None else super().contract(factors, ranks)


def move_bases(factors: Factors, gradients: Gradients, lr: float) -> Factors:
    """Return the core in the bases orth(K - lr dK) and orth(L - lr dL) (32)-(34), with K = U S and L = V S^T."""
    s, (u, v) = factors
    dk, dl = gradients.bases
    bases = (linalg.orth(u @ s - lr * dk), linalg.orth(v @ s.T - lr * dl))
    return Factors(change_bases(factors, bases), bases)
