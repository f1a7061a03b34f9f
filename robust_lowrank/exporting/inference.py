"""The fastest network of ordinary layers is measured: thin or merged, without normalisations, and weights in two orders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn

from robust_lowrank.answers import run
from robust_lowrank.errors import UserError
from robust_lowrank.exporting.plain import Choice, never, plain
from robust_lowrank.exporting.timing import SAME, LayerTimes, Prepare, as_it_is, faster, time_in_turn, time_layers
from robust_lowrank.folding import IMAGES, channels_last, fold

CLEAR = 0.75  # of the time of the merged weight


@torch.no_grad()
def fastest(model: nn.Module, example_input: Any) -> nn.Module:
    """Return the fastest network of ordinary layers for inputs like these, in evaluation mode on this device.

    Layers are thin where that is faster, or only where it clearly is, or all merged; weights of convolutions of images lie as they
    do, or channels last. Networks whose times are within 5 % count as equally fast, and of those the one with the fewest parameters
    is returned. Of a network in evaluation mode the normalisations are folded into their neighbours.

    Raises:
        UserError: the network does not run on the example.
    """
    networks = [each for prepare in (as_it_is, channels_last) for each in _forms(model, example_input, prepare)]
    with evaluating(networks):
        rounds = time_in_turn(networks, example_input)
    shares = [median(seconds[index] / seconds[0] for seconds in rounds) for index in range(len(networks))]  # of one round each
    near = [index for index, share in enumerate(shares) if share <= (1 + SAME) * min(shares)]
    return networks[min(near, key=lambda index: (sum(each.numel() for each in networks[index].parameters()), shares[index]))]


def _forms(model: nn.Module, example_input: Any, prepare: Prepare) -> Iterator[nn.Module]:
    """Yield the networks with thin layers where they are faster, with those that clearly are, and with merged ones."""
    if prepare is channels_last and not any(isinstance(each, IMAGES) for each in plain(model, never).modules()):
        return
    try:
        times = time_layers(model, example_input, prepare)
        for choice in (faster(times), clearly_faster(times), never):
            network = fold(plain(model, choice), example_input)
            prepare(network)
            with evaluating([network]):
                run(network, example_input)
            yield network
    except UserError:
        if prepare is not channels_last:
            raise  # others are due to networks that ask for an order in memory


def clearly_faster(times: dict[str, LayerTimes]) -> Choice:
    """Return the choice of chains whose time is clearly less: times of single layers mislead where they are close."""
    return lambda name, layer: name in times and times[name].chain and times[name].factors < CLEAR * times[name].dense


@contextmanager
def evaluating(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Have networks in evaluation mode, and put back the mode of every module."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode
