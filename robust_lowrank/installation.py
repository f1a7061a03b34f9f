"""Factors are put into a network, and taken out again if it then computes something else."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from robust_lowrank.candidates import Candidate
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.exporting.plain import never, plain
from robust_lowrank.layers import ChainLayer, FactoredLayer, MergedLayer
from robust_lowrank.layers.merged import Block, install_merged, put_back
from robust_lowrank.observation import alike, in_float64, observe, passes
from robust_lowrank.submodules import put

READERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)  # torch's modules that compute with the weights of their layers


def install(model: nn.Module, targets: list[Candidate], built: Mapping[str, FactoredLayer], undo: ExitStack) -> None:
    """Put factored layers in the places of candidates, by their names, and tell `undo` how to take them out again.

    Raises:
        UserError: something in the network lets nothing be put in.
    """
    try:
        _install(model, targets, built, undo)
    except (TypeError, KeyError, AttributeError, RuntimeError) as error:  # of classes that no other can be derived from
        raise UserError(f"the factors cannot be put into the network: {first_line(error)}") from error


def _install(model: nn.Module, targets: list[Candidate], built: Mapping[str, FactoredLayer], undo: ExitStack) -> None:
    for candidate in targets:
        layer = built[candidate.name]
        if isinstance(layer, ChainLayer):
            for name in candidate.names:
                parent = model.get_submodule(name.rpartition(".")[0])
                layer.read = layer.read or isinstance(parent, READERS)
                undo.callback(put, model, name, model.get_submodule(name))
                put(model, name, layer)
    for block, layers in by_parameter(targets, built):
        for module, parameter, _ in block.places:
            undo.callback(put_back, module, parameter, getattr(module, parameter), list(module._parameters), type(module))
        install_merged(block.places, layers)


@contextmanager
def undoing() -> Iterator[ExitStack]:
    """Yield a stack of what is to be undone if the block fails."""
    with ExitStack() as stack:
        yield stack
        stack.pop_all()


def by_parameter(targets: list[Candidate], built: Mapping[str, FactoredLayer]) -> Iterator[tuple[Block, dict[str, MergedLayer]]]:
    """Yield for each parameter that is merged its first block, and the layers of all its blocks by their labels."""
    parameters: dict[tuple[int, str], tuple[Block, dict[str, MergedLayer]]] = {}
    for candidate in targets:
        layer = built[candidate.name]
        if isinstance(candidate.layer, Block) and isinstance(layer, MergedLayer):
            place = candidate.layer.places[0]
            entry = parameters.setdefault((id(place.module), place.parameter), (candidate.layer, {}))
            entry[1][place.block] = layer
    yield from parameters.values()


def require_in_use(model: nn.Module, example_input: Any, targets: list[Candidate]) -> None:
    """Raise a `UserError` if something in a network still calls a layer whose place another one has taken."""
    called: list[str] = []
    with ExitStack() as stack:
        for candidate in targets:
            if isinstance(candidate.layer, nn.Module):
                hook = candidate.layer.register_forward_pre_hook(lambda *_, name=candidate.name: called.append(name))
                stack.callback(hook.remove)
        observe(model, example_input)
    if called:
        raise UserError(
            f"layer {called[0]!r} is called still, as if something else kept it, and not what took its place: exclude it"
        )


def require_the_same(model: nn.Module, example_input: Any) -> None:
    """Run a factored network once more in both modes, and require that it does what the network with merged weights does.

    Both run in float64, where factors and weights differ by little, and the merged network once more with its weights moved by
    rounding: what that changes, as chance and unstable networks do, tells nothing.

    Raises:
        UserError: it does not run, or computes something else.
    """
    try:
        factored = copy.deepcopy(model).double()
        example = in_float64(example_input)
        merged = plain(factored, never)
        due = passes(merged, example)
        for parameter in merged.parameters():
            parameter.data *= 1 + 8 * torch.finfo(torch.float64).eps
        moved = passes(merged, example)
    except Exception:  # of networks that cannot be copied, or do not run in float64: there is nothing to compare with
        return
    if not alike(passes(factored, example), due, moved):
        raise UserError(
            "the factored network computes something else than with its weights merged, as if it looked at the types of its "
            "layers: exclude those that it looks at"
        )
