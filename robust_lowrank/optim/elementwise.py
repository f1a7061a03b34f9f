"""Element-wise moments are those of the factors' entries, as in the papers' codes: torch's optimizer moves the cores."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from robust_lowrank import linalg
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.bases import basis_overlaps
from robust_lowrank.optim.factor_grads import gradients, join, split
from robust_lowrank.optim.moments import Moments, keep_frozen
from robust_lowrank.optim.naming import naming_layer

FIRST_MOMENTS = ("momentum_buffer", "exp_avg", "grad_avg")
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


class ElementwiseMoments(Moments):
    """Hands cores, and the directions of retraction methods, to the torch optimizer, and turns its state with the bases."""

    whole = False

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        self._aimed: dict[FactoredLayer, Factors] = {}

    def directions(self, layers: Mapping[str, FactoredLayer], *, keep: bool) -> dict[str, Factors]:
        """Return the gradients: bases turn by them alone."""
        return {name: gradients(layer) for name, layer in layers.items()}

    def move_core(self, layer: FactoredLayer, direction: Tensor) -> None:
        """Leave the direction to the torch optimizer."""
        layer.core.grad = direction

    def aim(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Give the torch optimizer the directions as gradients, and zeros as bases, where it leaves the exact increments."""
        for name, layer in layers.items():
            with naming_layer(name):
                self._aim(layer)

    def _aim(self, layer: FactoredLayer) -> None:
        parameters = (layer.core, *layer.bases())
        old = layer.factors()._replace(core=layer.core.detach().clone())
        for parameter, direction in zip(parameters, join(layer.method.directions(old, gradients(layer))), strict=True):
            parameter.grad = direction
        for basis in layer.bases():
            basis.data = torch.zeros_like(basis)
        states = [self.optimizer.state.get(parameter, {}) for parameter in parameters]
        for key in FIRST_MOMENTS:
            if all(isinstance(state.get(key), Tensor) for state in states):
                moments = layer.method.transport(Factors(*split([state[key] for state in states])), old)
                for state, moment in zip(states, join(moments), strict=True):
                    state[key] = moment
        self._aimed[layer] = old

    def land(self, layer: FactoredLayer) -> None:
        """Retract what the torch optimizer has added to the factors."""
        old = self._aimed.pop(layer)
        increments = Factors(layer.core.detach() - old.core, tuple(basis.detach() for basis in layer.bases()))
        layer.set_factors(keep_frozen(layer, old, layer.method.retract(old, increments)))

    def forget(self, layer: FactoredLayer) -> None:
        """Do nothing: between steps nothing is kept."""

    def carry(self, layer: FactoredLayer, old: Factors, new: Factors) -> None:
        """Turn the state of the core."""
        if state := self.optimizer.state.get(layer.core):
            self.optimizer.state[layer.core] = transport(state, old.core.shape, basis_overlaps(old.bases, new.bases))


def transport(state: dict[str, Any], shape: torch.Size, maps: Sequence[Tensor]) -> dict[str, Any]:
    """Return an optimizer's state of a core after a change of bases, map i being U_i,new^T U_i,old.

    First moments turn with the core (methods (6)), which is exact for momentum SGD. Second moments turn by the squared entries, and
    rows and columns that an augmentation has added start at the old mean (methods (8)). A state with anything else is dropped.
    """
    moved = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or (value.shape != shape and value.numel() == 1):
            moved[key] = value
        elif key in FIRST_MOMENTS and value.shape == shape:
            moved[key] = linalg.multi_product(value, maps)
        elif key in SECOND_MOMENTS and value.shape == shape:
            moved[key] = _transport_squares(value, maps)
        else:
            return {}
    return moved


def _transport_squares(value: Tensor, maps: Sequence[Tensor]) -> Tensor:
    squares = linalg.multi_product(value, [each.square() for each in maps])
    fresh = torch.zeros_like(squares, dtype=torch.bool)
    for mode, each in enumerate(maps):
        if each.shape[0] > each.shape[1]:
            fresh.movedim(mode, 0)[each.shape[1] :] = True
    return torch.where(fresh, value.mean(), squares)
