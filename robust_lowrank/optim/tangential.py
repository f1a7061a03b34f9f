"""Tangent moments do not depend on the choice of a layer's bases."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import RetractionMethod
from robust_lowrank.optim.factor_grads import clear, gradients
from robust_lowrank.optim.moments import Moments, keep_frozen
from robust_lowrank.optim.naming import naming_layer
from robust_lowrank.optim.rules import Rule, State, decoupled_decay, sgd, transport_state
from robust_lowrank.optim.together import together


class TangentMoments(Moments):
    """Moves factored layers by a rule on tangent vectors (methods (70)-(76)); the torch optimizer never sees their gradients."""

    whole = True

    def __init__(self, optimizer: Optimizer, rule: Rule) -> None:
        super().__init__(optimizer)
        self.rule = rule
        self._left: dict[FactoredLayer, Factors] = {}

    def directions(self, layers: Mapping[str, FactoredLayer], *, keep: bool) -> dict[str, Factors]:
        """Return the rule's directions."""
        self.arrive(layers)
        found = {}
        for group, members in self._grouped(layers):
            calls = {name: (self._state(layer), gradients(layer), layer.factors()) for name, layer in members.items()}
            ruled = together(partial(_ruled, self.rule, group), calls)
            for name, (direction, advanced) in ruled.items():
                found[name] = direction
                if keep and advanced:
                    self.optimizer.state[layers[name].core] = advanced
        return found

    def _state(self, layer: FactoredLayer) -> dict[str, Any]:
        return self.optimizer.state.get(layer.core, {})

    def _grouped(self, layers: Mapping[str, FactoredLayer]) -> Iterable[tuple[dict[str, Any], dict[str, FactoredLayer]]]:
        """Return the layers of each parameter group."""
        parts: dict[int, tuple[dict[str, Any], dict[str, FactoredLayer]]] = {}
        for name, layer in layers.items():
            group = self.group(layer)
            parts.setdefault(id(group), (group, {}))[1][name] = layer
        return parts.values()

    def needs_bases(self, layer: FactoredLayer) -> bool:
        """Return whether there is a state, which plain descent has none of."""
        group = self.group(layer)
        return self.rule is not sgd or bool(group["momentum"] or group["weight_decay"])

    def move_core(self, layer: FactoredLayer, direction: Tensor) -> None:
        """Move the core at once."""
        old = layer.factors()
        layer.core.data = moved(old.core, direction, *self.rate_and_decay(layer))
        self.carry(layer, old, layer.factors())

    def rate_and_decay(self, layer: FactoredLayer) -> tuple[float, float]:
        """Return the learning rate of a layer, and the weight decay that is no part of its gradient."""
        group = self.group(layer)
        return group["lr"], decoupled_decay(group)

    def aim(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Move all factors at once and bring them back."""
        directions = self.directions(layers, keep=True)
        for method in dict.fromkeys(layer.method for layer in layers.values()):
            calls = {}
            for name, layer in layers.items():
                if layer.method == method:
                    rates = [self.group_of(basis)["lr"] if basis.requires_grad else 0.0 for basis in layer.bases()]
                    calls[name] = layer.factors(), directions[name], rates, *self.rate_and_decay(layer)
            for name, descended in together(partial(_descended, method), calls).items():
                layer = layers[name]
                old = layer.factors()
                with naming_layer(name):
                    new = keep_frozen(layer, old, method.project(descended))
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

    def arrive(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Project the moments of layers on their present tangent spaces."""
        calls = {}
        for name, layer in layers.items():
            if (old := self._left.pop(layer, None)) is not None and (state := self._state(layer)):
                calls[name] = state, old, layer.factors()
        for name, state in together(transport_state, calls).items():
            self.optimizer.state[layers[name].core] = state


def moved(core: Tensor, direction: Tensor, rate: float, decay: float) -> Tensor:
    """Return a core moved against a direction."""
    return core - rate * (direction + decay * core)


def _ruled(rule: Rule, group: dict[str, Any], state: State, gradient: Factors, factors: Factors) -> tuple[Factors, State]:
    return rule(state, gradient, factors, group)


def _descended(
    method: RetractionMethod, factors: Factors, direction: Factors, rates: Sequence[float], rate: float, decay: float
) -> Factors:
    return method.descend(factors, direction, moved(factors.core, direction.core, rate, decay), rates)
