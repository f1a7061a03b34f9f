"""An optimizer that cannot train a network's factors is noticed at its first step, and a warning says what would."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from robust_lowrank.layers import FactoredLayer
from robust_lowrank.methods import GalerkinMethod, RetractionMethod

_layers: WeakSet[FactoredLayer] = WeakSet()  # that a method has to move, and no LowRankOptimizer has stepped
_replaced: WeakValueDictionary[int, Tensor] = WeakValueDictionary()  # by identity, weights whose places factors have taken
_known: WeakSet[torch.optim.Optimizer] = WeakSet()  # looked at since the last compression
_hooks: list[Any] = []
_driven = [0]  # how many steps of a LowRankOptimizer are under way


def watch(layers: Iterable[FactoredLayer], replaced: Iterable[Tensor]) -> None:
    """Notice from now on who trains these layers without their method, or weights that they have replaced.

    The gradients of what is replaced go: nobody will clear them, and a step would move it by them.

    Example:
        >>> watch(factored.values(), weights)  # doctest: +SKIP
    """
    _layers.update(layer for layer in layers if isinstance(layer.method, RetractionMethod | GalerkinMethod))
    for weight in replaced:
        weight.grad = None
        _replaced[id(weight)] = weight
    _known.clear()
    if not _hooks:
        _hooks.append(register_optimizer_step_post_hook(_look))


@contextmanager
def driving() -> Iterator[None]:
    """Let a torch optimizer move factors within the block: a `LowRankOptimizer` does the rest."""
    _driven[0] += 1
    try:
        yield
    finally:
        _driven[0] -= 1


def _look(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Warn of an optimizer that has taken its first step since the last compression, if it is no good for that."""
    try:
        if optimizer in _known:
            return
        _known.add(optimizer)
    except TypeError:  # a class of somebody's that cannot be told from others
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    stepped = {id(each) for each in parameters if each.grad is not None or _driven[0]}
    moved = [layer for layer in list(_layers) if any(id(basis) in stepped for basis in layer.bases())]
    if _driven[0]:
        for layer in moved:
            _layers.discard(layer)
        return
    name = type(optimizer).__name__
    remedy = f"after compress make rlr.LowRankOptimizer(model, torch.optim.{name}, lr=...) and step that"
    if moved:
        text = (
            f"{name} moves the factors of a compressed network by themselves: their bases do not stay orthonormal, and it is not "
        )
        warnings.warn(f"{text}the method that trains them; {remedy}", stacklevel=3)
    elif lost := sum(id(each) in _replaced and each.grad is None for each in parameters):
        text = f"{name} was made before compress: {lost} of the {len(parameters)} parameters that it steps are weights whose places"
        warnings.warn(f"{text} factors have taken, and the factors are not trained; {remedy}", stacklevel=3)
