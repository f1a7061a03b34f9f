"""A second evaluation at the same weight need not be run: what the first one shows gives the gradients between new bases too."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from robust_lowrank.layers import FactoredLayer
from robust_lowrank.layers.chain import ChainLayer
from robust_lowrank.layers.seen import Passes, Seen


class Recall:
    """Keeps the passes of layers whose bases turn without a change of the weight, from an evaluation until they have turned.

    Where one of the layers forms its weight, was compiled, or has no gradient there is nothing to recall, nor where the gradients
    are not those of the passes any more, as after clipping: then the evaluation is to be run again.

    Args:
        layers: those whose bases turn; of any other kind there is nothing to recall.
    """

    def __init__(self, layers: Mapping[str, FactoredLayer]) -> None:
        chains = {name: layer for name, layer in layers.items() if isinstance(layer, ChainLayer)}
        able = len(chains) == len(layers) and all(
            layer.method.keeps_weight and layer.core.requires_grad for layer in chains.values()
        )
        self._layers = chains if able else {}
        self._seen: dict[str, list[Seen]] = {}  # by layer, once all have shown theirs

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Have the backward passes within it noted."""
        passes = {name: Passes() for name in self._layers}
        hooks = [layer.core.register_hook(passes[name].keep) for name, layer in self._layers.items()]
        for name, layer in self._layers.items():
            layer.seen = passes[name]
        try:
            yield
        finally:
            for hook, layer in zip(hooks, self._layers.values(), strict=True):
                hook.remove()
                layer.seen = None
        seen = {name: each.kept for name, each in passes.items()}
        if self._whole(seen):
            self._seen = seen

    def _whole(self, shown: Mapping[str, list[Seen]]) -> bool:
        """Return whether the cores' gradients are those of the passes shown."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for name, layer in self._layers.items():
            seen, found = shown[name], layer.core.grad
            if not seen or found is None:
                return False
            pairs.append((functools.reduce(Tensor.add, [each.core for each in seen]), found))
        return bool(pairs) and bool(torch.stack([(told == found).all() for told, found in pairs]).all())  # one look at a GPU

    def __bool__(self) -> bool:
        return bool(self._seen)

    def give(self) -> None:
        """Give cores, and bases that take part, their gradients in the layers' present factors, and forget the passes."""
        for name, passes in self._seen.items():
            layer = self._layers[name]
            sides = any(basis.requires_grad for basis in layer.bases())
            for seen in passes:
                for parameter, part in zip((layer.core, *layer.bases()), layer.gradients_of(seen, sides=sides), strict=True):
                    parameter.grad = part if parameter.grad is None or part is None else parameter.grad + part
        self._seen = {}
