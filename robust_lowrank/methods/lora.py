"""LoRA updates a frozen weight, by plain or by preconditioned gradients."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robust_lowrank.errors import UserError
from robust_lowrank.methods.vanilla import Vanilla


@dataclass(frozen=True, kw_only=True)
class LoRA(Vanilla):
    """Train W_pre + (alpha / r) A B^T, A from zero and B from a Kaiming start, by the optimizer as they are.

    Example:
        >>> LoRA().adapter
        True

    Source: Hu et al. 2021, arXiv 2106.09685, whose B is our A and whose A is our B^T.
    """

    name: ClassVar[str] = "lora"
    adapter: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class ScaledLoRA(LoRA):
    """LoRA whose gradients are preconditioned by r x r matrices, so that steps hardly depend on how A and B share the update.

    The optimizer is given dA (B^T B + delta I)^{-1} and dB (A^T A + delta I)^{-1}. With plain descent the update moves along
    G V V^T + U U^T G to first order, for orthonormal bases U and V of A and B.

    Args:
        delta: what keeps the matrices invertible, as at the start, where A is zero.

    Example:
        >>> ScaledLoRA().delta
        1e-06

    Source: Zhang, Pilanci, ICML 2024, arXiv 2402.02347, "Riemannian Preconditioned LoRA".
    """

    name: ClassVar[str] = "scaled-lora"
    delta: float = 1e-6

    def __post_init__(self) -> None:
        if not 0 < self.delta < float("inf"):
            raise UserError(f"delta = {self.delta} must be a positive number, or a matrix of zero has no inverse")

    def precondition(self, factors: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the gradients of A and B as the optimizer shall see them."""
        (a, b), (da, db) = factors, gradients
        return da @ self._inverse(b), db @ self._inverse(a)

    def _inverse(self, factor: Tensor) -> Tensor:
        square = factor.T @ factor
        return torch.linalg.inv_ex(square + self.delta * torch.eye(len(square), dtype=square.dtype, device=square.device)).inverse
