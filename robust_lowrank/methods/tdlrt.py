"""TDLRT: dynamical low-rank training of kernels in Tucker form, with two evaluations a step."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robust_lowrank.layers.base import Factors
from robust_lowrank.methods.base import Expansion, GalerkinMethod, Gradients, augment


@dataclass(frozen=True, kw_only=True)
class TDLRT(GalerkinMethod):
    """Augment the basis of each channel mode from one backward pass, move the core, truncate each mode by the HOSVD.

    A convolution keeps its kernel modes whole; a linear layer is the order-2 case.

    Args:
        tol: relative truncation tolerance of each mode; `None` keeps the ranks.
        min_rank, max_rank: ranks that truncation neither undercuts nor exceeds.

    Example:
        >>> TDLRT(tol=0.1).kernels
        'tucker'

    Source: Zangrando, Schotthöfer, Ceruti, Kusch, Tudisco, NeurIPS 2024, arXiv 2305.19059.
    """

    name: ClassVar[str] = "tdlrt"
    kernels: ClassVar[Literal["matrix", "tucker"]] = "tucker"
    evaluations: ClassVar[int] = 2
    tol: float | None = 0.1

    def expand(self, factors: Factors, gradients: Gradients, lr: float) -> Expansion:
        """Return the core in the augmented bases (40)-(41)."""
        return Expansion(augment(factors, gradients), None)
