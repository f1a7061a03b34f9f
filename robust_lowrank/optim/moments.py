"""Moments move a factored layer, and keep the optimizer's state of it in their coordinates."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.linalg import Factors


class Moments(ABC):
    """Moves factored layers by what a torch optimizer makes of their gradients.

    Attributes:
        whole: whether they hold a state of all factors together.
    """

    whole: bool

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._groups: dict[Tensor, dict[str, Any]] = {}

    @abstractmethod
    def directions(self, layers: Mapping[str, FactoredLayer], *, keep: bool) -> dict[str, Factors]:
        """Return the tangent vectors to subtract from layers; with `keep` the gradients enter the state."""

    def needs_bases(self, layer: FactoredLayer) -> bool:
        """Return whether the step of a core alone takes in the gradients of its bases too."""
        return self.whole

    def core_directions(self, layers: Mapping[str, FactoredLayer]) -> dict[str, Tensor]:
        """Return what to subtract from cores between bases that rest; the gradients enter the state."""
        plain = {name: layer.core.grad for name, layer in layers.items() if not self.needs_bases(layer)}
        told = {name: grad for name, grad in plain.items() if grad is not None}
        others = self.directions({name: layer for name, layer in layers.items() if name not in told}, keep=True)
        return told | {name: direction.core for name, direction in others.items()}

    @abstractmethod
    def move_core(self, layer: FactoredLayer, direction: Tensor) -> None:
        """Move a core against a direction, now or in the torch optimizer's step that follows."""

    @abstractmethod
    def aim(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Move layers of retraction methods, or prepare the torch optimizer's step to move them."""

    @abstractmethod
    def land(self, layer: FactoredLayer) -> None:
        """Bring a layer back to its manifold after the torch optimizer's step."""

    @abstractmethod
    def carry(self, layer: FactoredLayer, old: Factors, new: Factors) -> None:
        """Take a layer's state along when its factors change."""

    @abstractmethod
    def forget(self, layer: FactoredLayer) -> None:
        """Drop what is kept of a layer beside the torch optimizer's state."""

    def group(self, layer: FactoredLayer) -> dict[str, Any]:
        """Return the parameter group of a layer's core."""
        return self.group_of(layer.core)

    def group_of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Return the parameter group of a parameter."""
        group = self._groups.get(parameter)
        if group is None or not any(group is each for each in self.optimizer.param_groups):  # others stand there after loading
            self._groups = {p: group for group in self.optimizer.param_groups for p in group["params"]}
            group = self._groups[parameter]
        return group


def keep_frozen(layer: FactoredLayer, old: Factors, new: Factors) -> Factors:
    """Return the new factors, with the old ones of bases that do not require gradients."""
    pairs = zip(layer.bases(), old.bases, new.bases, strict=True)
    return new._replace(bases=tuple(after if basis.requires_grad else before for basis, before, after in pairs))
