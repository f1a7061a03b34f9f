"""RobustDLRT is rank-adaptive DLRT whose core steps also pay for the spread of singular values."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.linalg import Ranks
from robust_lowrank.methods.galerkin import GalerkinMethod
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

    Source: Schotthöfer, Yang, Schnake, NeurIPS 2025, arXiv 2505.08022, algorithm 1; its core steps each take a new batch, as
    amortised steps do.
    """

    name: ClassVar[str] = "robust-dlrt"
    idle: ClassVar[float] = 1.0  # a direction that is not needed would be the least singular value of the weight
    tol: float | Literal["auto"] | None = "auto"
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
        """The batches between two truncations of amortised steps, beside the one that turns the bases."""
        return self.core_steps

    @property
    def form(self) -> str:
        """Matrices, and Tucker factors of a kernel's channels."""
        return "channels"

    def core_penalty(self, core: Tensor, used: Ranks) -> Tensor | None:
        """Return beta grad R (52) of the part of the core between the bases that were turned."""
        block = tuple(map(slice, used))
        spread = spread_gradient(linalg.unfold(core[block], 0)).reshape(core[block].shape)
        gradient = torch.zeros_like(core)
        gradient[block] = self.beta * spread
        return gradient
