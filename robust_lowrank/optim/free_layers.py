"""Layers of free factors are the torch optimizer's, but for what their methods add to its steps."""

from typing import Any

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers import trained_layers
from robust_lowrank.methods import GalerkinMethod, Method, RetractionMethod
from robust_lowrank.methods.base import Memory
from robust_lowrank.optim.loss_terms import add_penalty


class FreeLayers:
    """Hands the factors of a network's free layers to their methods, before and after every step.

    Layers of one method share one memory.

    Raises:
        UserError: a method that needs a memory has two settings in the network.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = {
            name: layer
            for name, layer in trained_layers(model)
            if isinstance(layer.method, Method) and not isinstance(layer.method, GalerkinMethod | RetractionMethod)
        }
        self._memories: dict[str, Memory] = {}
        for method in dict.fromkeys(layer.method for layer in self._layers.values()):
            if (memory := method.memory()) is None:
                continue
            if method.name in self._memories:
                raise UserError(f"{method.name} has two settings in this network, and one budget: adapt all its layers alike")
            self._memories[method.name] = memory

    def adjust_gradients(self) -> None:
        """Add the gradients of the methods' own terms, and precondition."""
        for layer in self._layers.values():
            if (term := layer.method.term) is not None:
                for factor in layer.free_factors():
                    add_penalty(factor, term, term.weight)
            factors = layer.all_factors()
            gradients = tuple(factor.grad for factor in factors if factor.grad is not None)
            if len(gradients) == len(factors):
                preconditioned = layer.method.precondition(tuple(factor.detach() for factor in factors), gradients)
                for factor, gradient in zip(factors, preconditioned, strict=True):
                    factor.grad = gradient

    def after_step(self, step: int) -> None:
        """Let the methods look at the step just taken."""
        for name, memory in self._memories.items():
            memory.after_step(self._factors(name), step)

    def state_dict(self) -> dict[str, Any]:
        """Return what the methods keep, by their names; nothing if they keep nothing."""
        return {name: memory.state_dict() for name, memory in self._memories.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            UserError: it is of other methods.
        """
        if state.keys() != self._memories.keys():
            raise UserError(f"this state has what {sorted(state)} keep, and the network {sorted(self._memories)}")
        for name, memory in self._memories.items():
            memory.load_state_dict(state[name], self._factors(name))

    def _factors(self, method: str) -> dict[str, tuple[nn.Parameter, ...]]:
        return {name: layer.all_factors() for name, layer in self._layers.items() if layer.method.name == method}
