"""AdaLoRA's part of a step: its penalty, and the competition of all layers' triplets."""

from typing import Any

from torch import Tensor, nn

from robust_lowrank.layers import named_factored_layers
from robust_lowrank.methods.adalora import AdaLoRA, Sensitivity, kept_triplets, triplet_scores
from robust_lowrank.optim.terms import add_penalty


class Allocation:
    """Keeps the sensitivities of the layers that AdaLoRA trains, and zeroes the triplets that lose.

    All those layers have one method, as `adapt` gives it to them.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = {name: layer for name, layer in named_factored_layers(model) if isinstance(layer.method, AdaLoRA)}
        self.sensitivity: dict[str, tuple[Sensitivity, ...]] = {}
        self.chosen: dict[str, Tensor] = {}  # the triplets that count at the end of the training

    def penalise(self) -> None:
        """Add the gradients of the penalty."""
        for layer in self.layers.values():
            for factor in layer.free_factors():
                add_penalty(factor, layer.method.term, layer.method.term.weight)

    def after(self, step: int) -> None:
        """Look at the gradients of the step just taken, and allocate where it is time to."""
        for name, layer in self.layers.items():
            p, q = layer.free_factors()
            parameters = (p, layer.core, q)
            if any(parameter.grad is None for parameter in parameters):
                return
            before = self.sensitivity.get(name, (None, None, None))
            self.sensitivity[name] = tuple(
                layer.method.observe(old, parameter.detach(), parameter.grad)
                for old, parameter in zip(before, parameters, strict=True)
            )
        if self.layers:
            self._allocate(next(iter(self.layers.values())).method, step)

    def _allocate(self, method: AdaLoRA, step: int) -> None:
        first = sum(layer.core.numel() for layer in self.layers.values())
        count = method.allowed(step, first)
        ends = step >= method.steps - method.settle - 1
        if count >= first or (step % method.interval and not ends):
            return
        kept = self.chosen
        if not kept:
            masks = kept_triplets([triplet_scores(*self.sensitivity[name]) for name in self.layers], count)
            kept = dict(zip(self.layers, masks, strict=True))
        if ends:
            self.chosen = kept
        for name, layer in self.layers.items():
            layer.core.data *= kept[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the sensitivities, and the final choice if it is made, as plain tensors."""
        sensitivity = {name: [tuple(factor) for factor in factors] for name, factors in self.sensitivity.items()}
        return {"sensitivity": sensitivity, "chosen": dict(self.chosen)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.sensitivity = {
            name: tuple(Sensitivity(*(part.to(self.layers[name].core.device) for part in factor)) for factor in factors)
            for name, factors in state["sensitivity"].items()
        }
        self.chosen = {name: mask.to(self.layers[name].core.device) for name, mask in state["chosen"].items()}
