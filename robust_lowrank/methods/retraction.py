"""Retraction methods move all factors, and bring them back to a manifold."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from robust_lowrank.linalg import Factors
from robust_lowrank.methods.base import Method

Gradients = Factors  # (dS, (dK, dL)) in the slots of (S, (U, V))


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

    def descend(self, factors: Factors, gradients: Gradients, core: Tensor, rates: Sequence[float]) -> Factors:
        """Return factors after a step against gradients, which `project` still brings to the manifold.

        Many layers are mapped over it at once: it looks at no value (`decompositions.checked`).

        Args:
            gradients: those of a tangent vector.
            core: where that moves.
            rates: by which the bases move.
        """
        sides = self.directions(factors, gradients).bases
        return self.retract(
            factors, Factors(core - factors.core, tuple(-rate * side for rate, side in zip(rates, sides, strict=True)))
        )

    def transport(self, moments: Factors, factors: Factors) -> Factors:
        """Return first moments of an earlier point as they count at `factors`."""
        return moments
