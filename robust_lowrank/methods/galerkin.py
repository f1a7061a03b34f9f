"""Galerkin methods turn bases, move the core between them, and truncate."""

import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.linalg import Factors, Ranks
from robust_lowrank.methods import tangent
from robust_lowrank.methods.base import Method, Use
from robust_lowrank.methods.bases import augment
from robust_lowrank.methods.bound import SUNK, clamp_core, missing_directions, used_under_bound

SPARE = 1  # directions that a layer whose rank adapts keeps beyond those of its tolerance
CLEARANCE = 1000.0  # roundings between a direction that is about to be cut and one that is
ROUNDINGS = 10.0  # of its norm, which are no part of a weight
IDLE = 0.1  # of the tolerance: the size below which such a direction has no part in the weight
TOLERANCES: dict[Use, float] = {"weights": 0.1, "drawn": 0.03, "adapter": 0.1}


class Kept(NamedTuple):
    """The ranks at which a layer is cut: those it keeps, and those of them that its weight has; the rest is idle."""

    ranks: Ranks
    used: Ranks


@dataclass(frozen=True, kw_only=True)
class GalerkinMethod(Method, ABC):
    """A method that turns the bases and moves the core between them.

    Where the rank adapts, a layer keeps one direction more than its tolerance asks for, from which the rank may grow: inside the
    tangent space it is of first order in the step, outside of second. Below a tenth of the tolerance it is *idle*: its weight
    waits in the optimizer until it is worth more.

    Args:
        tol: relative truncation tolerance; `None` keeps the rank, "auto" is 0.03 for weights drawn anew and 0.1 otherwise.
        min_rank: rank below which truncation never goes.
        max_rank: rank above which truncation never leaves a layer.
        cond: condition number at which the spectrum is clamped after truncation; `None` lets it be.
        threshold: what `tol` is relative to: the norm of each `layer`, or the root mean square of those of the `network`, so that
            a layer which needs no rank gets none; `None` takes the network for adapters, which start from nothing, else layers.
    """

    core_steps: ClassVar[int] = 0
    window: ClassVar[int] = 0
    idle: ClassVar[float] = IDLE
    tol: float | Literal["auto"] | None = None
    min_rank: int = 1
    max_rank: int | None = None
    cond: float | None = None
    threshold: Literal["layer", "network"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tol, str) and self.tol != "auto":
            raise unknown_name("tol", self.tol, ("auto",))
        if self.threshold not in ("layer", "network", None):
            raise unknown_name("threshold", str(self.threshold), ("layer", "network"))
        if isinstance(self.tol, float | int) and not 0 <= self.tol < 1:
            raise UserError(f"tol = {self.tol} is outside [0, 1): it is the part of the weight's norm that truncation may drop")
        for name, value in (("min_rank", self.min_rank), ("max_rank", self.max_rank)):
            if value is not None and not isinstance(value, int):
                raise UserError(f"{name} = {value} is not an integer")
        if self.tol is None and self.max_rank is not None:
            raise UserError(f"max_rank = {self.max_rank} limits a rank that adapts, but with tol = None it stays: give a tol too")
        if self.min_rank < 1:
            raise UserError(f"min_rank = {self.min_rank} is below 1")
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise UserError(f"max_rank = {self.max_rank} is below min_rank = {self.min_rank}")
        if self.cond is not None and not self.cond >= 1:
            raise UserError(f"cond = {self.cond} is below 1, which no matrix reaches: give the largest condition number allowed")
        if self.cond == math.inf:
            object.__setattr__(self, "cond", None)

    @property
    def cond_bound(self) -> float:
        """`cond`, or inf."""
        return math.inf if self.cond is None else self.cond

    @property
    def adaptive(self) -> bool:
        """Whether truncation chooses the ranks."""
        return self.tol is not None

    @property
    def tolerance(self) -> float:
        """The tolerance in force."""
        assert self.tol is not None
        return TOLERANCES["weights"] if self.tol == "auto" else self.tol

    def with_defaults_for(self, use: Use) -> "GalerkinMethod":
        """Return the method with its tolerance and its threshold chosen for what its factors start from."""
        tol = TOLERANCES[use] if self.tol == "auto" else self.tol
        return replace(self, tol=tol, threshold=self.threshold or ("network" if use == "adapter" else None))

    @property
    def evaluations(self) -> int:
        """One in the old bases, and one for each core step in the new ones."""
        return 1 + self.core_steps

    @property
    def shortest_window(self) -> int:
        """The least number of core steps between two truncations of amortised steps."""
        return min(1, self.core_steps)

    @property
    def keeps_weight(self) -> bool:
        """Whether new bases begin with the old ones, so that the weight is the same between them."""
        return True

    def expand(self, factors: Factors, direction: Factors, lr: float) -> Factors:
        """Return the core in the new bases, turned by a direction; the weight is the same if the new bases hold the old ones."""
        return augment(factors, direction)

    @property
    def plain(self) -> bool:
        """Whether a step ends with the truncation of W - lr P_T(G), and the optimizer goes on from the weight's singular values."""
        return not self.core_steps and not (self.adaptive and self.cond is not None)

    def core_direction(self, factors: Factors, direction: Factors, bases: tuple[Tensor, ...], *, outside: float) -> Tensor | None:
        """Return what the evaluation at `factors` tells of the core's direction in new bases, if the core shall move by it."""
        return tangent.core_between(direction, factors, bases, outside=outside)

    def core_penalty(self, core: Tensor, used: Ranks) -> Tensor | None:
        """Return the gradient of a term that the method itself adds to the loss for the core's steps.

        Args:
            used: the ranks of the weight before its bases turned, whose directions come first.
        """

    def choose_ranks(
        self, spectra: Sequence[Sequence[Tensor]], before: Sequence[Ranks], weights: Sequence[Tensor | None]
    ) -> list[Kept]:
        """Return the ranks at which to cut each layer.

        Args:
            spectra: of each layer what the optimizer has: a matrix has one spectrum, a kernel in Tucker form one for each mode with
                a basis. A layer whose singular values are all zero keeps its ranks.
            before: the ranks before the step.
            weights: with `cond`, the weight's core in the directions of the first spectrum, one a row.
        """
        if self.tol is None:
            return [Kept(ranks, ranks) for ranks in before]
        chosen = []
        for layer, ranks, rows, theta in zip(spectra, before, weights, self.thresholds(spectra), strict=True):
            if not bool(layer[0][0] > 0):
                chosen.append(Kept(ranks, ranks))
                continue
            modes = [self.kept(sigma, theta, None if mode else rows) for mode, sigma in enumerate(layer)]
            chosen.append(Kept(*(tuple(each) for each in zip(*(modes * 2 if len(modes) == 1 else modes), strict=True))))
        return chosen

    def thresholds(self, spectra: Sequence[Sequence[Tensor]]) -> list[float]:
        """Return how much of each layer's norm may be cut (methods (4)): what is but rounding always."""
        norms = [float(linalg.norm(layer[0])) for layer in spectra]
        scales = [math.sqrt(sum(norm**2 for norm in norms) / len(norms))] * len(norms) if self.threshold == "network" else norms
        rounded = [ROUNDINGS * torch.finfo(layer[0].dtype).eps * norm for layer, norm in zip(spectra, norms, strict=True)]
        return [max(self.tolerance * scale, least) for scale, least in zip(scales, rounded, strict=True)]

    def kept(self, sigma: Tensor, theta: float, rows: Tensor | None) -> tuple[int, int]:
        """Return how many singular values of a mode are kept, and how many of them are in use, at the threshold `theta`.

        Args:
            rows: of the mode whose condition number is bounded, the weight's core in these directions.
        """
        limit = len(sigma) if self.max_rank is None else min(self.max_rank, len(sigma))
        needed = self.needed_rank(sigma, theta)
        if self.cond is not None and rows is not None:
            used = min(used_under_bound(sigma, rows, self.cond, minimum=self.min_rank), needed)
            return min(used + SPARE, limit), used
        kept = min(needed + SPARE, limit)
        used = linalg.truncation_rank(sigma, self.idle * theta, minimum=self.min_rank, maximum=kept)
        return kept, max(1, min(used, int((sigma > 0).sum())))

    def needed_rank(self, sigma: Tensor, theta: float) -> int:
        """Return the least rank whose tail norm is at most `theta`, within the method's limits (methods (4))."""
        return linalg.truncation_rank(sigma, theta, minimum=self.min_rank, maximum=self.max_rank)

    def visible_and_shadow(self, core: Tensor, weight: Tensor, used: Ranks, before: Ranks) -> tuple[Tensor, Tensor]:
        """Return a truncated core as the weight has it, clamped and without what is idle, and as the optimizer has it.

        The clamp lifts the weight alone: for the optimizer a direction that training presses down sinks, until it is cut. What is
        left of it is held between half the weight's least value, where it is about to be cut, and its value in the weight. What is
        idle waits below the least of these.

        Args:
            core: as the optimizer has it, with what it keeps beside the weight.
            weight: the same without that.
            used: how many directions the weight shall have.
            before: how many it had before the step. Further ones it takes from `core`, and in the first mode those that it lacks.
        """
        block = tuple(map(slice, used))
        shown, memory = torch.zeros_like(core), core.clone()
        shown[block] = core[block]
        if self.cond is not None and bool(core.any()):
            old = (block[0], *map(slice, map(min, before[1:], used[1:])))
            shown[old] = weight[old]
            part, rows = linalg.unfold(core[block], 0), linalg.unfold(shown[block], 0)
            u, sigma, vh = linalg.svd(torch.where(missing_directions(rows, self.cond)[:, None], part, rows))
            clamped = torch.where(sigma > 0, linalg.clamp_values(sigma, self.cond - 1, "exact"), 0.0)
            sunk = (u.T @ part * vh).sum(1)
            clearance = CLEARANCE * torch.finfo(core.dtype).eps
            sunk = torch.minimum(sunk.clamp(min=clamped[0] / self.cond * (SUNK + clearance)), clamped)
            shown[block], memory[block] = (((u * values) @ vh).reshape(core[block].shape) for values in (clamped, sunk))
            idle = (slice(used[0], None), *block[1:])
            waiting = linalg.project_out(vh.T, core[idle].flatten(1).T).T  # not to mix with the rest, nor to overtake it
            most = (1 - clearance) * torch.where(sunk > 0, sunk, math.inf).min()
            memory[idle] = (
                torch.renorm(linalg.in_float64(waiting), 2, 0, float(most)).to(core).reshape(core[idle].shape)
                if len(waiting)
                else core[idle]
            )
        return shown, memory if self.adaptive else shown

    def project(self, factors: Factors) -> Factors:
        """Return the factors with the spectrum clamped to `cond` by the exact projection (methods (17))."""
        if self.cond is None or not bool(factors.core.any()):
            return factors
        return factors._replace(core=clamp_core(factors.core, self.cond - 1, "exact"))


def off_diagonal_factor(window: int) -> float:
    """Return by what the core's blocks into new bases are multiplied on the batch that turns them (methods (78)).

    The others of a window see these directions too, but not the ones that they would have turned the bases to.
    """
    return 2.0 if window == 1 else math.sqrt(window + 1)
