"""RobustDLRT: rank-adaptive DLRT whose core steps also pay for the spread of the singular values."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import Factors
from robust_lowrank.methods.base import Form, GalerkinMethod, Gradients, augment, tangent_gradient, turns
from robust_lowrank.penalties import spread_gradient


@dataclass(frozen=True, kw_only=True)
class RobustDLRT(GalerkinMethod):
    """Augment the bases from one evaluation, then take core steps on the loss + beta R(S), and truncate.

    Args:
        beta: weight of R(S) = ||S^T S - a^2 I||, a^2 = ||S||^2 / r, which is zero when all singular values are equal.
        core_steps: core steps between two truncations.
        tol: relative truncation tolerance.
        min_rank, max_rank: ranks that truncation neither undercuts nor exceeds.
        cond: condition number at which the spectrum is clamped after truncation; `None` lets it be.

    Kernels are Tucker factors of the channel modes, whose first unfolding R acts on.

    Example:
        >>> RobustDLRT(core_steps=3).evaluations
        4

    Source: Schotthöfer, Yang, Schnake, NeurIPS 2025, arXiv 2505.08022, algorithm 1; its core steps each take a new batch, which is
    the amortised schedule.
    """

    name: ClassVar[str] = "robust-dlrt"
    tol: float | None = 0.1
    beta: float = 0.05
    core_steps: int = 10  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tol is None:
            raise UserError("robust-dlrt augments its bases at every step and needs a tol to truncate them by")
        if not 0 <= self.beta < float("inf"):
            raise UserError(f"beta = {self.beta} must be a number from 0")
        if self.core_steps < 1 or not isinstance(self.core_steps, int):
            raise UserError(f"core_steps = {self.core_steps} is no integer from 1: without core steps there is no R in the method")

    @property
    def window(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The batches between two truncations of the amortised schedule, beside the one that turns the bases."""
        return self.core_steps

    @property
    def form(self) -> Form:
        """Matrices, and Tucker factors of a kernel's channels."""
        return "channels"

    def expand(self, factors: Factors, gradients: Gradients, lr: float) -> Factors:
        """Return the core in the augmented bases (57)."""
        return augment(factors, gradients)

    def core_gradient(self, factors: Factors, gradients: Gradients, bases: tuple[Tensor, ...]) -> Tensor | None:
        """Return the tangent projection's for a matrix; for a kernel the old bases' with zeros elsewhere."""
        if factors.core.ndim == 2:
            return tangent_gradient(factors, gradients, bases)
        return linalg.multi_product(gradients.core, turns(factors.bases, bases))

    def core_penalty(self, core: Tensor) -> Tensor | None:
        """Return beta grad R (52)."""
        return self.beta * spread_gradient(linalg.unfold(core, 0)).reshape(core.shape)
