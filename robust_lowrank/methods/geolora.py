"""GeoLoRA descends on the manifold with adaptive rank from one backward."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robust_lowrank.errors import UserError
from robust_lowrank.linalg import Ranks
from robust_lowrank.methods.galerkin import SPARE, GalerkinMethod, Kept


@dataclass(frozen=True, kw_only=True)
class GeoLoRA(GalerkinMethod):
    """Move K, L and S at once from one evaluation, as one core step in the augmented bases, and truncate.

    Args:
        tol: relative truncation tolerance; `None` keeps the rank, which makes it Riemannian gradient descent with the SVD as
            retraction.
        budget: the sum of all layers' ranks: of the singular values that the tolerance leaves, the largest ones of the whole
            network stay. With `tol=0` the budget alone decides.
        min_rank, max_rank: ranks that truncation neither undercuts nor exceeds.
        cond: condition number at which the spectrum is clamped after truncation; `None` lets it be.

    Example:
        >>> GeoLoRA(tol=0.15).evaluations
        1

    Source: Schotthöfer, Zangrando, Ceruti, Tudisco, Kusch, ICLR 2025, arXiv 2410.18720; the clamp is CondLR's.
    """

    name: ClassVar[str] = "geolora"
    tol: float | Literal["auto"] | None = "auto"
    budget: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None and self.tol is None:
            raise UserError(
                f"budget = {self.budget} shares ranks out, but tol = None keeps them: give a tol (0: the budget alone decides)"
            )
        if self.budget is not None and (self.budget < 1 or not isinstance(self.budget, int)):
            raise UserError(f"budget = {self.budget} is no integer from 1: it is the sum of all layers' ranks")

    def check(self, layers: int, *, kernels: int) -> None:
        """Raise a `UserError` if the least ranks alone exceed the budget."""
        if self.budget is not None and self.budget < layers * self.min_rank:
            raise UserError(
                f"budget = {self.budget} is below min_rank = {self.min_rank} for each of {layers} layers: raise it or lower that"
            )

    def choose_ranks(
        self, spectra: Sequence[Sequence[Tensor]], before: Sequence[Ranks], weights: Sequence[Tensor | None]
    ) -> list[Kept]:
        """Return the ranks that the tolerance allows, cut down to the budget.

        The direction that each layer keeps beyond its own is one of the budget's, where that has room for it: by it a layer may
        outgrow another, and take over its place.
        """
        allowed = super().choose_ranks(spectra, before, weights)
        if self.budget is None or self.tol is None:
            return allowed
        spare = SPARE if self.budget >= len(spectra) * (self.min_rank + SPARE) else 0
        sizes = [min(kept.ranks) for kept in allowed]
        counts = within_budget(
            [layer[0][:size] for layer, size in zip(spectra, sizes, strict=True)], self.budget - spare * len(spectra), self.min_rank
        )
        return [
            Kept((rank := min(count + spare, size),) * 2, (min(rank, *kept.used),) * 2)
            for count, size, kept in zip(counts, sizes, allowed, strict=True)
        ]


def within_budget(spectra: Sequence[Tensor], budget: int, minimum: int) -> list[int]:
    """Return how many of each layer's singular values are among the `budget` largest of all, at least `minimum` of each."""
    floors = [min(minimum, len(sigma)) for sigma in spectra]
    free = max(0, budget - sum(floors))
    rest = torch.cat([sigma[floor:] for sigma, floor in zip(spectra, floors, strict=True)])
    owners = torch.cat([torch.full_like(sigma[floor:], i) for i, (sigma, floor) in enumerate(zip(spectra, floors, strict=True))])
    largest = owners[rest.argsort(descending=True, stable=True)[:free]].long()
    return [floor + extra for floor, extra in zip(floors, torch.bincount(largest, minlength=len(spectra)).tolist(), strict=True)]


@dataclass(frozen=True, kw_only=True)
class RGD(GeoLoRA):
    """Riemannian gradient descent on the matrices of fixed rank: GeoLoRA's step, cut back to the rank by the SVD.

    Example:
        >>> RGD().tol is None
        True

    Source: Absil, Mahony, Sepulchre, "Optimization Algorithms on Matrix Manifolds", 2008; the equality is methods (48b).
    """

    name: ClassVar[str] = "rgd"
    tol: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tol is not None:
            raise UserError(f"tol = {self.tol} adapts the rank, which RGD keeps: take geolora, the same step with a tolerance")
