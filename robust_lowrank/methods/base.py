"""What a method is: pure functions of factors and projected gradients, under three families.

A *retraction* method (CondLR, the Stiefel baselines) moves all factors along directions and brings them back to its manifold. A
*Galerkin* method (DLRT, TDLRT, GeoLoRA) turns the bases, moves the core between the new ones, and truncates. *Free* factors are
left to the optimizer. No method ever sees a layer or a network.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import Factors

Gradients = Factors  # (dS, (dK, dL)) in the slots of (S, (U, V))
Ranks = tuple[int, ...]
Form = Literal["matrix", "channels", "tucker", "whole", "pair", "triple", "diagonal"]


class Method:
    """A way to train factors.

    Attributes:
        name: what the command line calls it.
        form: what a weight is stored as: `matrix` U S V^T; `channels` the same for linear layers and Tucker factors of the channel
            modes for kernels, `tucker` of all modes; `whole` one tensor; and without constraint `pair` A B^T, `triple` U S V^T and
            `diagonal` P diag(lambda) Q^T.
        evaluations: how often one step of the exact schedule evaluates loss and gradients.
    """

    name: ClassVar[str]
    ranked: ClassVar[bool] = True  # False: weights stay whole, at full rank
    adapter: ClassVar[bool] = False  # True: only an update of a frozen weight, scaled by alpha / r

    @property
    def cond_bound(self) -> float:
        """The condition number that no weight exceeds after a step; inf if there is no bound."""
        return math.inf

    @property
    def form(self) -> Form:
        """How a weight is stored."""
        return "matrix"

    @property
    def evaluations(self) -> int:
        """How often one step of the exact schedule evaluates."""
        return 1

    def check(self, layers: int) -> None:
        """Raise a `UserError` if so many layers cannot be trained together."""

    def admit(self, factors: Factors) -> Factors:
        """Return the nearest factors that the method's constraint allows."""
        return factors


class RetractionMethod(Method, ABC):
    """A method that moves all factors together from one evaluation."""

    @abstractmethod
    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return the descent directions (D_S, (D_U, D_V)), to be handed to the optimizer as gradients."""

    @abstractmethod
    def retract(self, factors: Factors, increments: Factors) -> Factors:
        """Return factors on the manifold, from those before the step and what the optimizer adds to them."""

    def transport(self, moments: Factors, factors: Factors) -> Factors:
        """Return first moments of an earlier point as they count at `factors`."""
        return moments


@dataclass(frozen=True, kw_only=True)
class GalerkinMethod(Method, ABC):
    """A method that turns the bases and moves the core between them.

    Args:
        tol: relative truncation tolerance; `None` keeps the rank.
        min_rank: rank below which truncation never goes.
        max_rank: rank above which truncation never leaves a layer.
        cond: condition number at which the spectrum is clamped after truncation; `None` lets it be.
    """

    core_steps: ClassVar[int] = 0
    window: ClassVar[int] = 0
    tol: float | None = None
    min_rank: int = 2
    max_rank: int | None = None
    cond: float | None = None

    def __post_init__(self) -> None:
        if self.tol is not None and not 0 <= self.tol < 1:
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

    @property
    def cond_bound(self) -> float:
        """`cond`, or inf."""
        return math.inf if self.cond is None else self.cond

    @property
    def evaluations(self) -> int:
        """One in the old bases, and one for each core step in the new ones."""
        return 1 + self.core_steps

    @property
    def shortest_window(self) -> int:
        """The least number of core steps between two truncations of the amortised schedule."""
        return min(1, self.core_steps)

    @abstractmethod
    def expand(self, factors: Factors, gradients: Gradients, lr: float) -> Factors:
        """Return the core between the new bases; the weight is the same if the new bases hold the old ones."""

    @abstractmethod
    def core_gradient(self, factors: Factors, gradients: Gradients, bases: tuple[Tensor, ...]) -> Tensor | None:
        """Return what the evaluation at `factors` tells of the core's gradient in new bases, if the core shall move by it."""

    def core_penalty(self, core: Tensor) -> Tensor | None:
        """Return the gradient of a term that the method itself adds to the loss for the core's steps."""
        return None

    def choose(self, spectra: Sequence[Sequence[Tensor]], before: Sequence[Ranks]) -> list[Ranks]:
        """Return the ranks at which to cut each layer, from the singular values of every mode and the ranks before the step.

        A layer whose singular values are all zero keeps its ranks.
        """
        if self.tol is None:
            return list(before)
        return [self.tolerated(layer, ranks) for layer, ranks in zip(spectra, before, strict=True)]

    def tolerated(self, spectra: Sequence[Tensor], before: Ranks) -> Ranks:
        """Return the least ranks of one layer whose tail norms are at most `tol` times its norm (methods (4))."""
        assert self.tol is not None
        theta = self.tol * spectra[0].norm()
        if not bool(spectra[0][0] > 0):
            return before
        return tuple(linalg.truncation_rank(s, theta, minimum=self.min_rank, maximum=self.max_rank) for s in spectra)

    def admit(self, factors: Factors) -> Factors:
        """Return the factors with the spectrum clamped to `cond` by the exact projection (methods (17))."""
        if self.cond is None or bool(factors.core.norm() == 0):
            return factors
        return factors._replace(core=clamp_core(factors.core, self.cond - 1, "exact"))


def augment(factors: Factors, gradients: Gradients) -> Factors:
    """Return the same weight in the bases orth([U_i | dK_i]) (DLRT (36), TDLRT (40)-(41)); no column is ever dropped."""
    bases = tuple(
        linalg.orth(torch.cat([basis, gradient], 1)) for basis, gradient in zip(factors.bases, gradients.bases, strict=True)
    )
    return Factors(change_bases(factors, bases), bases)


def change_bases(factors: Factors, bases: tuple[Tensor, ...]) -> Tensor:
    """Return the core projected on new bases."""
    return linalg.multi_product(factors.core, turns(factors.bases, bases))


def turns(old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    """Return U_i,new^T U_i,old for every mode."""
    return [after.T @ before for before, after in zip(old, new, strict=True)]


def tangent_gradient(factors: Factors, gradients: Gradients, bases: tuple[Tensor, ...]) -> Tensor:
    """Return U_hat^T P_T(G) V_hat = A dL^T V_hat + U_hat^T dK B^T - A dS B^T, with A = U_hat^T U and B = V_hat^T V.

    In a basis that starts with U and V it is the core gradient with the unknown block set to zero (methods (48b)).
    """
    u_hat, v_hat = bases
    ds, (dk, dl) = gradients
    a, b = turns(factors.bases, bases)
    return torch.addmm(a @ (dl.T @ v_hat), u_hat.T @ dk - a @ ds, b.T)


def decompose(factors: Factors) -> tuple[linalg.SVD, ...]:
    """Return the SVD of the core for each of its modes that has a basis: of its unfoldings, or twice that of the matrix."""
    core, bases = factors
    if core.ndim == 2:
        return (linalg.svd(core),) * 2
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
    kept = tucker_ranks(core, [min(rank, len(d.sigma)) for d, rank in zip(decompositions, ranks, strict=True)])
    rotations = [d.U[:, :rank] for d, rank in zip(decompositions, kept, strict=True)]
    core = linalg.multi_product(core, [rotation.T for rotation in rotations])
    return Factors(core, tuple(basis @ rotation for basis, rotation in zip(bases, rotations, strict=True)))


def clamp_core(core: Tensor, tau: float, reference: linalg.Reference) -> Tensor:
    """Return the core with the singular values of its first unfolding, which are the weight matrix's, clamped."""
    return linalg.clamp_spectrum(linalg.unfold(core, 0), tau, reference).reshape(core.shape)


def tucker_ranks(core: Tensor, wanted: list[int]) -> list[int]:
    """Return the ranks clipped so that none exceeds the product of the others, modes without a basis counted whole."""
    static = math.prod(core.shape[len(wanted) :])
    ranks = list(wanted)
    for i in range(len(ranks)):
        others = static * math.prod(rank for j, rank in enumerate(ranks) if j != i)
        ranks[i] = min(ranks[i], others)
    return ranks
