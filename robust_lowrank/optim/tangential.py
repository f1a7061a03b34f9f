"""Tangent moments do not depend on the choice of a layer's bases."""

from torch import Tensor
from torch.optim import Optimizer

from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.linalg import Factors
from robust_lowrank.optim.factor_grads import clear, gradients
from robust_lowrank.optim.moments import Moments, keep_frozen
from robust_lowrank.optim.rules import Rule, decoupled_decay, sgd, transport_state


class TangentMoments(Moments):
    """Moves factored layers by a rule on tangent vectors (methods (70)-(76)); the torch optimizer never sees their gradients."""

    whole = True

    def __init__(self, optimizer: Optimizer, rule: Rule) -> None:
        super().__init__(optimizer)
        self.rule = rule
        self._left: dict[FactoredLayer, Factors] = {}

    def direction(self, layer: FactoredLayer, *, keep: bool) -> Factors:
        """Return the rule's direction."""
        self._arrive_at(layer)
        state = self.optimizer.state.get(layer.core, {})
        direction, advanced = self.rule(state, gradients(layer), layer.factors(), self.group(layer))
        if keep and advanced:
            self.optimizer.state[layer.core] = advanced
        return direction

    def needs_bases(self, layer: FactoredLayer) -> bool:
        """Return whether there is a state, which plain descent has none of."""
        group = self.group(layer)
        return self.rule is not sgd or bool(group["momentum"] or group["weight_decay"])

    def move_core(self, layer: FactoredLayer, direction: Tensor) -> None:
        """Move the core at once."""
        old = layer.factors()
        layer.core.data = self.moved(layer, old.core, direction)
        self.carry(layer, old, layer.factors())

    def moved(self, layer: FactoredLayer, core: Tensor, direction: Tensor) -> Tensor:
        """Return a core of a layer moved against a direction."""
        group = self.group(layer)
        return core - group["lr"] * (direction + decoupled_decay(group) * core)

    def aim(self, layer: FactoredLayer) -> None:
        """Move all factors at once and bring them back."""
        old = layer.factors()
        direction = self.direction(layer, keep=True)
        rates = [self.group_of(basis)["lr"] if basis.requires_grad else 0.0 for basis in layer.bases()]
        moved = layer.method.descend(old, direction, self.moved(layer, old.core, direction.core), rates)
        new = keep_frozen(layer, old, moved)
        self.carry(layer, old, new)
        layer.set_factors(new)
        clear((layer.core, *layer.bases()))

    def land(self, layer: FactoredLayer) -> None:
        """Do nothing: `aim` moved it."""

    def carry(self, layer: FactoredLayer, old: Factors, new: Factors) -> None:
        """Remember where the layer's moment belongs, to project it on the tangent space in which it is next needed."""
        self._left.setdefault(layer, old)

    def forget(self, layer: FactoredLayer) -> None:
        """Drop where the layer's moment belongs."""
        self._left.pop(layer, None)

    def forget_journeys(self) -> None:
        """Treat loaded moments as belonging to the current factors."""
        self._left = {}

    def arrive(self) -> None:
        """Project the moments of all layers on their present tangent spaces."""
        for layer in list(self._left):
            self._arrive_at(layer)

    def _arrive_at(self, layer: FactoredLayer) -> None:
        if (old := self._left.pop(layer, None)) is not None and (state := self.optimizer.state.get(layer.core)):
            self.optimizer.state[layer.core] = transport_state(state, old, layer.factors())
