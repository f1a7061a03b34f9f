"""An adapter: a frozen layer plus alpha times a trained low-rank one."""

import copy

import torch
from torch import Tensor, nn

from robust_lowrank.layers.base import FactoredLayer


class Adapter(nn.Module):
    """The map base(x) + alpha * update(x), the base frozen, alpha fixed whatever becomes of the update's rank.

    Example:
        >>> frozen = nn.Linear(3, 4)
        >>> update = LowRankLinear(Factors(torch.zeros(2, 2), (torch.eye(4, 2), torch.eye(3, 2))))
        >>> Adapter(frozen, update, alpha=1.0)(torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, update: FactoredLayer, *, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.update = update
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both maps."""
        return self.base(x) + self.alpha * self.update(x)

    @torch.no_grad()
    def dense_layer(self) -> nn.Linear | nn.Conv2d:
        """Return the ordinary layer with the merged weight."""
        merged = copy.deepcopy(self.base).requires_grad_(True)
        merged.weight += (self.alpha * self.update.dense_weight()).to(merged.weight.dtype)
        return merged

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return f"alpha={self.alpha:g}"
