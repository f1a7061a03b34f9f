"""Forward passes are timed: of networks, and of the two forms of each factored layer on the input that it has in the network."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.answers import run, tensors
from robust_lowrank.exporting.plain import Choice, fewer_parameters, never, plain
from robust_lowrank.layers import ChainLayer
from robust_lowrank.submodules import uncompiled

LEAST_ROUNDS, MOST_ROUNDS = 5, 50
ENOUGH_SECONDS = 0.15  # of each module: more rounds than the least are taken for so long
Prepare = Callable[[nn.Module], object]  # changes ordinary layers in place before they are timed
SAME = 0.05  # relative: within it the form with fewer parameters is taken


@torch.no_grad()
def time_in_turn(modules: Sequence[nn.Module], example_input: Any) -> list[tuple[float, ...]]:
    """Return the seconds of forward passes: in each round one of every module, so that whatever else runs favours none.

    A round that comes first does not count.

    Args:
        example_input: a tensor, a tuple of positional arguments, or a mapping of named ones.

    Example:
        >>> len(time_in_turn([nn.Linear(2, 2), nn.Identity()], torch.ones(1, 2)))
        50
    """

    devices = {each.device for each in tensors(example_input) if each.device.type == "cuda"}

    def once(module: nn.Module) -> float:
        started = time.perf_counter()
        run(module, example_input)
        for device in devices:
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    for module in modules:
        once(module)
    rounds: list[tuple[float, ...]] = []
    started = time.perf_counter()
    while len(rounds) < LEAST_ROUNDS or (
        len(rounds) < MOST_ROUNDS and time.perf_counter() - started < len(modules) * ENOUGH_SECONDS
    ):
        rounds.append(tuple(map(once, modules)))
    return rounds


def as_it_is(network: nn.Module) -> None:
    """Leave a network as it is."""


class LayerTimes(NamedTuple):
    """Median seconds of a layer's forward pass in both forms, and whether the chain of thin layers is the better one."""

    dense: float
    factors: float
    chain: bool


@torch.no_grad()
def time_layers(model: nn.Module, example_input: Any, prepare: Prepare = as_it_is) -> dict[str, LayerTimes]:
    """Return by name the times of all layers that may become chains, on this device and for inputs of these shapes.

    Layers that do not take part in a pass in evaluation mode, or are merged in any case, are left out.

    Args:
        example_input: a tensor, a tuple of positional arguments, or a mapping of named ones.
        prepare: what is done to the layers first, such as `channels_last`.

    Example:
        >>> time_layers(model, torch.rand(1, 1, 28, 28))["fc"].chain  # doctest: +SKIP
        True

    Raises:
        UserError: the network does not run on it.
    """
    network = plain(model, never).eval()
    prepare(network)
    chains = {name: module for name, module in uncompiled(model).named_modules() if isinstance(module, ChainLayer)}
    modules, inputs = dict(network.named_modules()), dict[nn.Module, Tensor]()

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[layer] = given[0].clone()

    with ExitStack() as stack:
        for name in chains.keys() & modules.keys():
            stack.callback(modules[name].register_forward_pre_hook(keep).remove)
        run(network, example_input)
    called = {name: layer for name, layer in chains.items() if name in modules and modules[name] in inputs and not layer.read}
    return {name: _times(layer, inputs[modules[name]], prepare) for name, layer in called.items()}


def faster(times: dict[str, LayerTimes]) -> Choice:
    """Return the choice of the form that was faster, and of fewer parameters for layers that were not timed."""
    return lambda name, layer: times[name].chain if name in times else fewer_parameters(name, layer)


def _times(layer: ChainLayer, x: Tensor, prepare: Prepare) -> LayerTimes:
    forms = layer.dense_layer().eval(), layer.factored_layers().eval()
    for form in forms:
        prepare(form)
    dense, factors = (median(each) for each in zip(*time_in_turn(forms, x), strict=True))
    same = abs(dense - factors) <= SAME * dense
    return LayerTimes(dense, factors, fewer_parameters("", layer) if same else factors < dense)
