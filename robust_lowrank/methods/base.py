"""What a method is: pure functions of factors and projected gradients, under three families.

A *retraction* method (CondLR, the Stiefel baselines) moves all factors along directions and brings them back to its manifold. A
*Galerkin* method (DLRT, TDLRT, GeoLoRA) turns the bases, moves the core between the new ones, and truncates. *Free* factors are
left to the optimizer. No method ever sees a layer or a network.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.linalg import Factors, Ranks
from robust_lowrank.methods import tangent

Gradients = Factors  # (dS, (dK, dL)) in the slots of (S, (U, V))
SPARE = 1  # directions that a layer whose rank adapts keeps beyond those of its tolerance
SUNK, RISEN = 0.5, 0.75  # of the least value that `cond` allows a weight: the sizes at which a direction leaves it and joins it
CLEARANCE = 1000.0  # roundings between a direction that is about to be cut and one that is
ROUNDINGS = 10.0  # of its norm, which are no part of a weight
IDLE = 0.1  # of the tolerance: the size below which such a direction has no part in the weight

Use = Literal["weights", "drawn", "adapter"]  # what factors start from: trained weights, random draws, or nothing, beside a weight
TOLERANCES: dict[Use, float] = {"weights": 0.1, "drawn": 0.03, "adapter": 0.1}


class Method:
    """A way to train factors.

    Attributes:
        name: what the command line calls it.
        form: how a weight is stored: `matrix` U S V^T; `channels` the same for linear layers and Tucker factors of the channel
            modes for kernels, `tucker` of all modes; `whole` one tensor; and without constraint `pair` A B^T, `triple` U S V^T and
            `diagonal` P diag(lambda) Q^T.
        evaluations: how often one step of the exact schedule evaluates loss and gradients.
    """

    name: ClassVar[str]
    ranked: ClassVar[bool] = True  # False: weights stay whole, at full rank
    inverts: ClassVar[bool] = False  # whether a step divides by the core, which then cannot be zero
    adapter: ClassVar[bool] = False  # True: only an update of a frozen weight, scaled by alpha / r

    @property
    def cond_bound(self) -> float:
        """The condition number that no weight exceeds after a step; inf if there is no bound."""
        return math.inf

    @property
    def form(self) -> str:
        """How a weight is stored."""
        return "matrix"

    @property
    def evaluations(self) -> int:
        """How often one step of the exact schedule evaluates."""
        return 1

    def check(self, layers: int, *, kernels: int) -> None:
        """Raise a `UserError` if so many layers, of which some are kernels, cannot be trained together."""

    def suited(self, use: Use) -> "Method":
        """Return the method with the defaults that suit what its factors start from."""
        return self

    def admit(self, factors: Factors) -> Factors:
        """Return the nearest factors that the method's constraint allows."""
        return factors


class RetractionMethod(Method, ABC):
    """A method that moves all factors together from one evaluation.

    Attributes:
        elementwise: whether the optimizer keeps moments of the factors' entries whatever it is asked for.
    """

    elementwise: ClassVar[bool] = False

    @abstractmethod
    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return the descent directions (D_S, (D_U, D_V)), to be handed to the optimizer as gradients."""

    @abstractmethod
    def retract(self, factors: Factors, increments: Factors) -> Factors:
        """Return factors on the manifold, from those before the step and what the optimizer adds to them."""

    def transport(self, moments: Factors, factors: Factors) -> Factors:
        """Return first moments of an earlier point as they count at `factors`."""
        return moments


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

    def suited(self, use: Use) -> "GalerkinMethod":
        """Return the method with its tolerance and its threshold chosen for what its factors start from."""
        tol = TOLERANCES[use] if self.tol == "auto" else self.tol
        return replace(self, tol=tol, threshold=self.threshold or ("network" if use == "adapter" else None))

    @property
    def evaluations(self) -> int:
        """One in the old bases, and one for each core step in the new ones."""
        return 1 + self.core_steps

    @property
    def shortest_window(self) -> int:
        """The least number of core steps between two truncations of the amortised schedule."""
        return min(1, self.core_steps)

    def expand(self, factors: Factors, direction: Factors, lr: float) -> Factors:
        """Return the core in the new bases, turned by a direction; the weight is the same if the new bases hold the old ones."""
        return augment(factors, direction)

    def core_direction(self, factors: Factors, direction: Factors, bases: tuple[Tensor, ...], *, outside: float) -> Tensor | None:
        """Return what the evaluation at `factors` tells of the core's direction in new bases, if the core shall move by it."""
        return tangent.core_between(direction, factors, bases, outside=outside)

    def core_penalty(self, core: Tensor, used: Ranks) -> Tensor | None:
        """Return the gradient of a term that the method itself adds to the loss for the core's steps.

        Args:
            used: the ranks of the weight before its bases turned, whose directions come first.
        """

    def choose(self, spectra: Sequence[Sequence[Tensor]], before: Sequence[Ranks], weights: Sequence[Tensor | None]) -> list[Kept]:
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
            chosen.append(Kept(*(tuple(found) for found in zip(*(modes * 2 if len(modes) == 1 else modes), strict=True))))
        return chosen

    def thresholds(self, spectra: Sequence[Sequence[Tensor]]) -> list[float]:
        """Return how much of each layer's norm may be cut (methods (4)): what is but rounding always."""
        norms = [float(layer[0].norm()) for layer in spectra]
        scales = [math.sqrt(sum(norm**2 for norm in norms) / len(norms))] * len(norms) if self.threshold == "network" else norms
        rounded = [ROUNDINGS * torch.finfo(layer[0].dtype).eps * norm for layer, norm in zip(spectra, norms, strict=True)]
        return [max(self.tolerance * scale, least) for scale, least in zip(scales, rounded, strict=True)]

    def kept(self, sigma: Tensor, theta: float, rows: Tensor | None) -> tuple[int, int]:
        """Return how many singular values of a mode are kept, and how many of them are in use, at the threshold `theta`.

        Args:
            rows: of the mode whose condition number is bounded, the weight's core in these directions.
        """
        limit = len(sigma) if self.max_rank is None else min(self.max_rank, len(sigma))
        needed = self.needed(sigma, theta)
        if self.cond is not None and rows is not None:
            used = min(used_under_bound(sigma, rows, self.cond, minimum=self.min_rank), needed)
            return min(used + SPARE, limit), used
        kept = min(needed + SPARE, limit)
        used = linalg.truncation_rank(sigma, self.idle * theta, minimum=self.min_rank, maximum=kept)
        return kept, max(1, min(used, int((sigma > 0).sum())))

    def needed(self, sigma: Tensor, theta: float) -> int:
        """Return the least rank whose tail norm is at most `theta`, within the method's limits (methods (4))."""
        return linalg.truncation_rank(sigma, theta, minimum=self.min_rank, maximum=self.max_rank)

    def present(self, core: Tensor, weight: Tensor, used: Ranks, before: Ranks) -> tuple[Tensor, Tensor]:
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
        if self.cond is not None and bool(core.norm() > 0):
            old = (block[0], *map(slice, map(min, before[1:], used[1:])))
            shown[old] = weight[old]
            part, rows = linalg.unfold(core[block], 0), linalg.unfold(shown[block], 0)
            u, sigma, vh = linalg.svd(torch.where(lacking(rows, self.cond)[:, None], part, rows))
            clamped = torch.where(sigma > 0, linalg.clamp_values(sigma, self.cond - 1, "exact"), 0.0)
            sunk = (u.T @ part * vh).sum(1)
            clearance = CLEARANCE * torch.finfo(core.dtype).eps
            sunk = torch.minimum(sunk.clamp(min=clamped[0] / self.cond * (SUNK + clearance)), clamped)
            shown[block], memory[block] = (((u * values) @ vh).reshape(core[block].shape) for values in (clamped, sunk))
            idle = (slice(used[0], None), *block[1:])
            waiting = linalg.project_out(vh.T, core[idle].flatten(1).T).T  # not to mix with the rest, nor to overtake it
            most = (1 - clearance) * torch.where(sunk > 0, sunk, math.inf).min()
            memory[idle] = torch.renorm(waiting, 2, 0, float(most)).reshape(core[idle].shape) if len(waiting) else core[idle]
        return shown, memory if self.adaptive else shown

    def admit(self, factors: Factors) -> Factors:
        """Return the factors with the spectrum clamped to `cond` by the exact projection (methods (17))."""
        if self.cond is None or bool(factors.core.norm() == 0):
            return factors
        return factors._replace(core=clamp_core(factors.core, self.cond - 1, "exact"))


def used_under_bound(sigma: Tensor, rows: Tensor, cond: float, *, minimum: int) -> int:
    """Return how many of its directions a weight with a bounded condition number has.

    A weight has singular values between two bounds, and zeros. A direction that training has pressed down against the clamp, so
    that for the optimizer it is nearer to zero than to the lower bound, leaves; one of which the weight has nothing joins it when
    it has come nearer to the bound than where others leave.

    Args:
        sigma: the singular values of what the optimizer has.
        rows: the weight's core in these directions, one a row.
    """
    new = lacking(rows, cond)
    used = int((sigma > 0).sum())
    while used > minimum:
        there = rows[:used][~new[:used]]  # what would join has no part in the bound that it has to come near to
        values = torch.linalg.svdvals(there) if len(there) else sigma[:used]
        least = float(linalg.clamp_values(values[values > 0], cond - 1, "exact")[0]) / cond
        if float(sigma[used - 1]) >= (RISEN if bool(new[used - 1]) else SUNK) * least:
            break
        used -= 1
    return used


def lacking(rows: Tensor, cond: float) -> Tensor:
    """Return for each row whether a weight with a bounded condition number has nothing in its direction but what one step gave."""
    norms = rows.norm(dim=1)
    return norms <= SUNK * norms.max() / cond


def off_diagonal_factor(window: int) -> float:
    """Return by what the core's blocks into new bases are multiplied on the batch that turns them (methods (78)).

    The others of a window see these directions too, but not the ones that they would have turned the bases to.
    """
    return 2.0 if window == 1 else math.sqrt(window + 1)


def augment(factors: Factors, direction: Factors) -> Factors:
    """Return the same weight in bases that hold the old ones and a direction's (DLRT (36), TDLRT (40)-(41))."""
    bases = tuple(linalg.extend(basis, side) for basis, side in zip(factors.bases, direction.bases, strict=True))
    added = [new.shape[1] - old.shape[1] for old, new in zip(factors.bases, bases, strict=True)]
    return Factors(padded(factors.core, added), bases)


def padded(core: Tensor, added: Sequence[int]) -> Tensor:
    """Return a core with zeros for so many new columns of its bases."""
    widths = [width for size in (*added, *(0,) * (core.ndim - len(added))) for width in (size, 0)]
    return torch.nn.functional.pad(core, widths[::-1])


def change_bases(factors: Factors, bases: tuple[Tensor, ...]) -> Tensor:
    """Return the core projected on new bases."""
    return linalg.multi_product(factors.core, turns(factors.bases, bases))


def turns(old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    """Return U_i,new^T U_i,old for every mode."""
    return [after.T @ before for before, after in zip(old, new, strict=True)]


def decompose(factors: Factors) -> tuple[linalg.SVD, ...]:
    """Return the SVD of a matrix's core, or those of a kernel's core unfolded along each mode that has a basis."""
    core, bases = factors
    if core.ndim == 2:
        return (linalg.svd(core),)
    return tuple(linalg.svd(linalg.unfold(core, mode)) for mode in range(len(bases)))


def cut(factors: Factors, decompositions: Sequence[linalg.SVD], ranks: Ranks) -> Factors:
    """Return the factors truncated to `ranks`.

    Two modes: the leading triplets, so that the core is diagonal (methods (5)). More: the truncated HOSVD, all bases from the same
    core (TDLRT (43)-(44)), no rank above the product of the others.
    """
    core, bases = factors
    if core.ndim == 2:
        p, sigma, qh = decompositions[0]
        r = min(ranks)
        return Factors(sigma[:r].diag(), (bases[0] @ p[:, :r], bases[1] @ qh[:r].T))
    kept = linalg.tucker_ranks(core, [min(rank, len(d.sigma)) for d, rank in zip(decompositions, ranks, strict=True)])
    rotations = [d.U[:, :rank] for d, rank in zip(decompositions, kept, strict=True)]
    core = linalg.multi_product(core, [rotation.T for rotation in rotations])
    return Factors(core, tuple(basis @ rotation for basis, rotation in zip(bases, rotations, strict=True)))


def clamp_core(core: Tensor, tau: float, reference: linalg.Reference) -> Tensor:
    """Return the core with the singular values of its first unfolding, which are the weight matrix's, clamped."""
    return linalg.clamp_spectrum(linalg.unfold(core, 0), tau, reference).reshape(core.shape)
