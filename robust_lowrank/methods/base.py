"""What a method is: pure functions of factors and projected gradients, under two families.

A *retraction* method (CondLR) moves all factors along directions and brings them back to the manifold. A *Galerkin* method (DLRT,
TDLRT, GeoLoRA) turns the bases, moves the core between the new ones, and truncates. Neither ever sees a layer or a network.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import Factors

Gradients = Factors  # (dS, (dK, dL)) in the slots of (S, (U, V))


class Expansion(NamedTuple):
    """Factors in the new bases, and the core's gradient there where the method knows it without another evaluation."""

    factors: Factors
    gradient: Tensor | None


class Method:
    """A way to train factors.

    Attributes:
        name: what the command line calls it.
        kernels: how a convolution's kernel is factored.
        evaluations: how often one step evaluates loss and gradients.
    """

    name: ClassVar[str]
    kernels: ClassVar[Literal["matrix", "tucker"]] = "matrix"
    evaluations: ClassVar[int] = 1

    def admit(self, factors: Factors) -> Factors:
        """Return the nearest factors that the method's constraint allows."""
        return factors


class RetractionMethod(Method, ABC):
    """A method that moves U, S and V together from one evaluation."""

    @abstractmethod
    def directions(self, factors: Factors, gradients: Gradients) -> Factors:
        """Return the descent directions (D_S, (D_U, D_V)), to be handed to the optimizer as gradients."""

    @abstractmethod
    def retract(self, core: Tensor, bases: tuple[Tensor, ...], increments: tuple[Tensor, ...]) -> Factors:
        """Return factors on the manifold, from the moved core, the old bases and their increments."""


@dataclass(frozen=True, kw_only=True)
class GalerkinMethod(Method, ABC):
    """A method that turns the bases and moves the core between them.

    Args:
        tol: relative truncation tolerance; `None` keeps the rank.
        min_rank: rank below which truncation never goes.
        max_rank: rank above which truncation never leaves a layer.
    """

    tol: float | None = None
    min_rank: int = 2
    max_rank: int | None = None

    def __post_init__(self) -> None:
        if self.tol is not None and not 0 <= self.tol < 1:
            raise UserError(f"tol = {self.tol} is outside [0, 1): it is the part of the weight's norm that truncation may drop")
        if self.min_rank < 1:
            raise UserError(f"min_rank = {self.min_rank} is below 1")
        if self.max_rank is not None and self.max_rank < self.min_rank:
            raise UserError(f"max_rank = {self.max_rank} is below min_rank = {self.min_rank}")

    @abstractmethod
    def expand(self, factors: Factors, gradients: Gradients, lr: float) -> Expansion:
        """Return the core between the new bases; the weight is the same if the new bases hold the old ones."""

    def contract(self, factors: Factors, ranks: tuple[int, ...]) -> Factors:
        """Return the factors truncated by the tolerance, or to `ranks`, those before the expansion, if there is none."""
        return truncate(factors, self.tol, ranks, self.min_rank, self.max_rank)


def augment(factors: Factors, gradients: Gradients) -> Factors:
    """Return the same weight in the bases orth([U_i | dK_i]) (DLRT (36), TDLRT (40)-(41)); no column is ever dropped."""
    bases = tuple(
        linalg.orth(torch.cat([basis, gradient], 1)) for basis, gradient in zip(factors.bases, gradients.bases, strict=True)
    )
    return Factors(change_bases(factors, bases), bases)


def change_bases(factors: Factors, bases: tuple[Tensor, ...]) -> Tensor:
    """Return the core projected on new bases."""
    maps = [new.T @ old for new, old in zip(bases, factors.bases, strict=True)]
    return linalg.multi_product(factors.core, maps)


def truncate(factors: Factors, tol: float | None, ranks: tuple[int, ...], min_rank: int, max_rank: int | None) -> Factors:
    """Return factors of the least ranks whose tail norm is at most `tol` times the core's norm; `tol = None`: of rank `ranks`.

    Two modes: the SVD of the core, which becomes diagonal (methods (4)-(5)). More: the truncated HOSVD, `tol` for each mode
    (TDLRT (43)-(44)). A core that is zero stays as it is.
    """
    core, bases = factors
    norm = core.norm()
    if bool(norm == 0):
        return factors

    def kept(sigma: Tensor, rank: int) -> int:
        if tol is None:
            return min(rank, len(sigma))
        return linalg.truncation_rank(sigma, tol * norm, minimum=min_rank, maximum=max_rank)

    if core.ndim == 2:
        p, sigma, qh = linalg.svd(core)
        r = kept(sigma, min(ranks))
        return Factors(sigma[:r].diag(), (bases[0] @ p[:, :r], bases[1] @ qh[:r].T))
    decompositions = [linalg.svd(linalg.unfold(core, mode)) for mode in range(len(bases))]
    wanted = [kept(d.sigma, rank) for d, rank in zip(decompositions, ranks, strict=True)]
    turns = [d.U[:, :rank] for d, rank in zip(decompositions, tucker_ranks(core, wanted), strict=True)]
    core = linalg.multi_product(core, [turn.T for turn in turns])
    return Factors(core, tuple(basis @ turn for basis, turn in zip(bases, turns, strict=True)))


def tucker_ranks(core: Tensor, wanted: list[int]) -> list[int]:
    """Return the ranks clipped so that none exceeds the product of the others, modes without a basis counted whole."""
    static = core[(0,) * len(wanted)].numel()
    ranks = list(wanted)
    for i in range(len(ranks)):
        others = static
        for j, rank in enumerate(ranks):
            others *= rank if j != i else 1
        ranks[i] = min(ranks[i], others)
    return ranks
