"""Adapters add low-rank updates to a frozen layer."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank.layers.chain import ChainLayer
from robust_lowrank.layers.forms import Dense
from robust_lowrank.layers.network import DEFAULT
from robust_lowrank.layers.updates import Updated


class Adapter(Updated):
    """The map base(x) + alpha * update(x), the base frozen, alpha fixed whatever becomes of the update's rank.

    Several updates have names; the active ones take part. What an update began with, if that was not zero, is subtracted from it.

    Example:
        >>> frozen = nn.Linear(3, 4)
        >>> update = LowRankLinear(Factors(torch.zeros(2, 2), (torch.eye(4, 2), torch.eye(3, 2))))
        >>> Adapter(frozen, update)(torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    def __init__(self, base: Dense, update: ChainLayer, *, name: str = DEFAULT) -> None:
        super().__init__()
        self.base: Dense = base
        base.weight.requires_grad_(False)
        self.add(name, [update])

    def updates(self) -> dict[str, ChainLayer]:
        """Return the updates by their names."""
        return {name: self.layers_of(name)[0] for name in self.names}  # pyright: ignore[reportReturnType]

    def taking_part(self) -> list[ChainLayer]:
        """Return the active updates."""
        return [update for name, update in self.updates().items() if name in self.active]

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the maps of base and active updates."""
        if self.folded is not None and self.active:
            return torch.func.functional_call(self.base, {"weight": self.folded}, (x,))
        y = self.base(x)
        for update in self.taking_part():
            y = y + update.change(x)
        return y

    @property
    def weight(self) -> Tensor:
        """The merged weight."""
        weight = self.base.weight
        for update in self.taking_part():
            update.note_reader()
            weight = weight + update.weight_change().to(weight.dtype)
        return weight

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
        for update in self.taking_part():
            merged.weight += update.weight_change().to(merged.weight.dtype)
        return merged

    def ordinary(self, *, thin: bool | None = None) -> Dense:
        """Return the ordinary layer with the merged weight, in the mode of this one and with its base's bias; it is never thin."""
        layer = self.dense_layer()
        if isinstance(bias := self.bias, nn.Parameter):
            bias.requires_grad_()
            layer.register_parameter("bias", bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        alphas = {name: update.alpha for name, update in self.updates().items()}
        if tuple(alphas) == self.active == (DEFAULT,):
            return f"alpha={alphas[DEFAULT]:g}"
        return ", ".join(f"{name}: alpha={alpha:g}{'' if name in self.active else ' (off)'}" for name, alpha in alphas.items())
