"""TDLRT trains kernels in Tucker form, with two evaluations a step."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.methods.galerkin import GalerkinMethod

Modes = Literal["channels", "all"]


@dataclass(frozen=True, kw_only=True)
class TDLRT(GalerkinMethod):
    """Augment the basis of each mode from one backward pass, move the core, truncate each mode by the HOSVD.

    A linear layer is the order-2 case.

    Args:
        modes: what has a basis in a kernel (F, Cin, kh, kw): the two `channels` modes, or `all` four.
        tol: relative truncation tolerance of each mode; `None` keeps the ranks.
        min_rank, max_rank: ranks that truncation neither undercuts nor exceeds.
        cond: condition number at which the spectrum of the matricised kernel is clamped after truncation; `None` lets it be.

    Example:
        >>> TDLRT(tol=0.1).form
        'channels'

    Source: Zangrando, Schotthöfer, Ceruti, Kusch, Tudisco, NeurIPS 2024, arXiv 2305.19059; the clamp is CondLR's.
    """

    name: ClassVar[str] = "tdlrt"
    core_steps: ClassVar[int] = 1
    window: ClassVar[int] = 1
    tol: float | Literal["auto"] | None = "auto"
    modes: Modes = "channels"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.modes not in get_args(Modes):
            raise unknown_name("modes", str(self.modes), get_args(Modes))

    def check(self, layers: int, *, kernels: int) -> None:
        """Raise a `UserError` if there are no kernels whose modes could all be factored."""
        if self.modes == "all" and not kernels:
            raise UserError(
                'modes = "all" factors all modes of kernels, and no convolution is to be factored here: take modes = "channels"'
            )

    @property
    def form(self) -> str:
        """Tucker, of the channels or of all modes."""
        return "tucker" if self.modes == "all" else "channels"
