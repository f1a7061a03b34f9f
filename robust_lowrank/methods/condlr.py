"""CondLR ends every step with a condition number of at most 1 + tau."""

import math
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.retraction import Gradients, RetractionMethod

Preconditioner = Literal["exact", "repo", "none"]
DEFAULT_TAU = 0.1


@dataclass(frozen=True, kw_only=True)
class CondLR(RetractionMethod):
    """Train W = U S V^T on the manifold, all singular values of S held in s(1 - eps) .. s(1 + eps), eps = tau / (2 + tau).

    Args:
        tau: every layer's condition number stays at or below 1 + tau, 0.1 if nothing is given; 0 makes S a multiple of an
            orthogonal matrix, inf switches the clamp off.
        cond: the same bound as 1 + tau; give one of the two.
        precond: what scales the directions of the bases: `exact` makes the step -lr P_T(G) to first order; `repo` is the scalar of
            the authors' released code, (sigma_min / sigma_max)^2 for tau > 0 and 1 / mean(sigma) for tau = 0; `none` leaves
            them as gradients of U and V.
        reference: the value s: `exact`, whose clamp is the nearest admissible S, or the `rms` or `mean` of the singular values, as
            in the authors' code; a clamp around these also moves an S that the bound admits.
        retraction: how bases return to orthonormality: `qr`, or `polar`, which does not depend on the choice of bases.

    Example:
        >>> CondLR(tau=0.5).retraction
        'qr'

    Source: Savostianova, Zangrando, Ceruti, Tudisco, NeurIPS 2023, arXiv 2306.01485.
    """

    name: ClassVar[str] = "condlr"
    inverts: ClassVar[bool] = True
    tau: float | None = None
    precond: Preconditioner = "exact"
    reference: linalg.Reference = "exact"
    retraction: linalg.Retraction = "qr"
    cond: InitVar[float | None] = None

    def __post_init__(self, cond: float | None) -> None:
        if cond is not None and self.tau is not None:
            raise UserError(f"tau = {self.tau} and cond = {cond} bound the same condition number (cond = 1 + tau): give one")
        if cond is not None and not cond >= 1:
            raise UserError(f"cond = {cond} is below 1, which no matrix reaches: give the largest condition number allowed")
        if self.tau is None:
            object.__setattr__(self, "tau", DEFAULT_TAU if cond is None else cond - 1)
        if not self.bound >= 0:
            raise UserError(
                f"tau = {self.tau} is not allowed: the condition number is held at 1 + tau, so tau >= 0 (inf: no bound)"
            )
        for name, choices in (("precond", Preconditioner), ("reference", linalg.Reference), ("retraction", linalg.Retraction)):
            if getattr(self, name) not in get_args(choices):
                raise unknown_name(name, str(getattr(self, name)), get_args(choices))

    @property
    def cond_bound(self) -> float:
        """1 + tau."""
        return 1 + self.bound

    @property
    def bound(self) -> float:
        """The tau that holds, given as such or by `cond`."""
        assert self.tau is not None
        return self.tau

    def project(self, factors: Factors) -> Factors:
        """Return the factors with the spectrum clamped.

        Raises:
            FactorisationError: the core is zero, or too small for a clamp.
        """
        if self.bound == math.inf and self.precond != "none" and not bool(factors.core.any()):
            raise linalg.FactorisationError("its weight is zero, and a step of condlr divides by it")
        return factors._replace(core=linalg.clamp_spectrum(factors.core, self.bound, self.reference))

    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return (D_S, (D_U, D_V)) of methods (19), (26) or the plain projected gradients."""
        scaled = (side @ scale for side, scale in zip(gradients.bases, self._scales(factors.core), strict=True))
        horizontal = map(linalg.project_out, factors.bases, scaled)
        return Factors(gradients.core, tuple(horizontal))

    def retract(self, factors: Factors, increments: Factors) -> Factors:
        """Return the retracted bases (21) and the clamped core (23)."""
        return self.project(Factors(factors.core + increments.core, self._retracted(factors.bases, increments.bases)))

    def _retracted(self, bases: Sequence[Tensor], increments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(
            linalg.retract(basis + linalg.project_out(basis, increment), self.retraction)
            for basis, increment in zip(bases, increments, strict=True)
        )

    def descend(self, factors: Factors, gradients: Gradients, core: Tensor, rates: Sequence[float]) -> Factors:
        """Return the same with fewer products of tall matrices: U^T dK = (V^T dL)^T = dS tells what lies in the bases.

        Without a clamp S^{-1} may blow roundings of that up, and directions are projected twice.
        """
        if self.bound == math.inf:
            sides = self.directions(factors, gradients).bases
            return Factors(core, self._retracted(factors.bases, [-rate * side for rate, side in zip(rates, sides, strict=True)]))
        within = gradients.core, gradients.core.T
        moved = []
        for basis, side, inside, scale, rate in zip(
            factors.bases, gradients.bases, within, self._scales(factors.core), rates, strict=True
        ):
            step = -rate * scale
            kept = torch.eye(len(inside), dtype=inside.dtype, device=inside.device) - inside @ step
            moved.append(linalg.retract(torch.addmm(side @ step, basis, kept), self.retraction))
        return Factors(core, tuple(moved))

    def _scales(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return the matrices by which dK and dL are multiplied.

        On the constraint set S is as well conditioned as the clamp makes it, so that its inverse loses nothing.
        """
        if self.precond == "exact":
            inverse = linalg.inverse(s)
            return inverse, inverse.T
        scale = repo_scale(s, self.bound) if self.precond == "repo" else 1.0
        return scale * s.T, scale * s

    def transport(self, moments: Factors, factors: Factors) -> Factors:
        """Return the moments of the bases projected on the horizontal space (7); that of the core stays."""
        return moments._replace(
            bases=tuple(linalg.project_out(basis, m) for basis, m in zip(factors.bases, moments.bases, strict=True))
        )


def repo_scale(s: Tensor, tau: float) -> Tensor:
    """Return the scalar that the released code puts in place of (S S^T)^{-1} (methods (26)-(27)), from the current S."""
    sigma = linalg.svd(s).sigma
    return 1 / sigma.mean() if tau == 0 else (sigma[-1] / sigma[0]).square()
