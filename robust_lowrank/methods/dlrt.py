"""DLRT is the basis-update & Galerkin integrator, at fixed or adaptive rank, with two evaluations a step.

With augmented bases both are at the same weight, and the first one shows what the second would (`optim.recall`).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.bases import change_bases
from robust_lowrank.methods.galerkin import GalerkinMethod


@dataclass(frozen=True, kw_only=True)
class DLRT(GalerkinMethod):
    """Turn the bases by a K- and an L-step, then move the core between them.

    Args:
        tol: relative truncation tolerance: the rank follows the weight, dropping at most `tol` of its norm in a step; `None`
            keeps the rank, and the bases are those of the moved K and L alone.
        min_rank, max_rank: ranks that truncation neither undercuts nor exceeds.
        cond: condition number at which the spectrum is clamped after truncation; `None` lets it be.

    Example:
        >>> DLRT(tol=0.1).evaluations
        2

    Source: Schotthöfer, Zangrando, Kusch, Ceruti, Tudisco, NeurIPS 2022, arXiv 2205.13571; the clamp is CondLR's.
    """

    name: ClassVar[str] = "dlrt"
    core_steps: ClassVar[int] = 1
    window: ClassVar[int] = 1

    @property
    def shortest_window(self) -> int:
        """None are needed where the tangent gradient already moves the core, which makes the step GeoLoRA's."""
        return 1 if self.tol is None else 0

    @property
    def keeps_weight(self) -> bool:
        """Whether new bases begin with the old ones: at fixed rank they do not."""
        return self.tol is not None

    def expand(self, factors: Factors, direction: Factors, lr: float) -> Factors:
        """Return the core in the augmented bases (36), or at fixed rank in those of the moved K and L (34)."""
        return move_bases(factors, direction, lr) if self.tol is None else super().expand(factors, direction, lr)

    def core_direction(self, factors: Factors, direction: Factors, bases: tuple[Tensor, ...], *, outside: float) -> Tensor | None:
        """Return the tangent projection's (48b); at fixed rank nothing, for the bases have moved by this direction."""
        return None if self.tol is None else super().core_direction(factors, direction, bases, outside=outside)


def move_bases(factors: Factors, direction: Factors, lr: float) -> Factors:
    """Return the core in the bases orth(K - lr dK) and orth(L - lr dL) (32)-(34), with K = U S and L = V S^T."""
    s, (u, v) = factors
    dk, dl = direction.bases
    bases = (linalg.orth(u @ s - lr * dk), linalg.orth(v @ s.T - lr * dl))
    return Factors(change_bases(factors, bases), bases)
