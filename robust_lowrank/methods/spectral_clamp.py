"""The spectral clamp bounds weights of full rank, and so tells apart what bound and low rank do."""

from dataclasses import dataclass
from typing import ClassVar, get_args

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.bound import clamp_core
from robust_lowrank.methods.retraction import Gradients, RetractionMethod


@dataclass(frozen=True, kw_only=True)
class SpectralClamp(RetractionMethod):
    """Train dense weights by their gradients and clamp all singular values after every step, at the cost of a full SVD.

    Args:
        cond: the largest condition number.
        reference: what the singular values are clamped around, as in `CondLR`.

    Example:
        >>> SpectralClamp(cond=1.5).cond_bound
        1.5

    Source: CondLR's projection, methods (16)-(17), at full rank.
    """

    name: ClassVar[str] = "spectral-clamp"
    ranked: ClassVar[bool] = False
    cond: float = 1.1
    reference: linalg.Reference = "rms"

    def __post_init__(self) -> None:
        if not self.cond >= 1:
            raise UserError(f"cond = {self.cond} is below 1, which no matrix reaches: give the largest condition number allowed")
        if self.reference not in get_args(linalg.Reference):
            raise unknown_name("reference", str(self.reference), get_args(linalg.Reference))

    @property
    def form(self) -> str:
        """One tensor."""
        return "whole"

    @property
    def cond_bound(self) -> float:
        """`cond`."""
        return self.cond

    def project(self, factors: Factors) -> Factors:
        """Return the weight with its spectrum clamped."""
        return factors._replace(core=clamp_core(factors.core, self.cond - 1, self.reference))

    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return the gradient."""
        return gradients

    def retract(self, factors: Factors, increments: Factors) -> Factors:
        """Return the moved weight, clamped."""
        return self.project(Factors(factors.core + increments.core, ()))
