"""Adapters add alpha times a low-rank layer to a frozen layer."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank.layers.chain import ChainLayer
from robust_lowrank.layers.forms import Dense
from robust_lowrank.layers.merged import MergedParameter


class Adapter(nn.Module):
    """The map base(x) + alpha * update(x), the base frozen, alpha fixed whatever becomes of the update's rank.

    Attributes:
        updated: whether the update takes part; `without_updates` leaves it out for a while.

    Example:
        >>> frozen = nn.Linear(3, 4)
        >>> update = LowRankLinear(Factors(torch.zeros(2, 2), (torch.eye(4, 2), torch.eye(3, 2))))
        >>> Adapter(frozen, update, alpha=1.0)(torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    updated: bool = True

    def __init__(self, base: Dense, update: ChainLayer, *, alpha: float) -> None:
        super().__init__()
        self.base: Dense = base
        base.weight.requires_grad_(False)
        self.update = update
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both maps, or the base's alone."""
        if not self.updated:
            return self.base(x)
        return self.base(x) + self.alpha * self.update(x)

    @property
    def weight(self) -> Tensor:
        """The merged weight."""
        return self.base.weight + self.alpha * self.update.weight if self.updated else self.base.weight

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self._modules.get("base")
            shown = {} if base is None or name.startswith("_") else vars(base) | base._parameters
            if name not in shown:
                raise
            return shown[name]

    @torch.no_grad()
    def dense_layer(self) -> Dense:
        """Return the ordinary layer with the merged weight."""
        merged = copy.deepcopy(self.base).requires_grad_(True)
        merged.weight += (self.alpha * self.update.dense_weight()).to(merged.weight.dtype)
        return merged

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return f"alpha={self.alpha:g}"


@contextmanager
def without_updates(model: nn.Module) -> Iterator[None]:
    """Leave the updates of all adapters out of the network for a block: its base alone, without a copy.

    Example:
        >>> with without_updates(model):
        ...     base_logits = model(x)
    """
    adapters = [module for module in model.modules() if isinstance(module, Adapter | MergedParameter) and module.updated]
    try:
        for adapter in adapters:
            adapter.updated = False
        yield
    finally:
        for adapter in adapters:
            adapter.updated = True
