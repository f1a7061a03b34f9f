"""Ranks are chosen by milliseconds: layers are timed dense and in factors, and then the network at the ranks that this suggests."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from robust_lowrank.answers import run, tensors
from robust_lowrank.budgets import Options, fit
from robust_lowrank.candidates import Candidate
from robust_lowrank.errors import UserError
from robust_lowrank.exporting.plain import always, never, plain
from robust_lowrank.exporting.timing import SAME, time_in_turn
from robust_lowrank.initialisation import gaussian_factors
from robust_lowrank.layers import ChainLayer
from robust_lowrank.layers.forms import Form, build, form_of
from robust_lowrank.layers.merged import Block
from robust_lowrank.linalg import Ranks
from robust_lowrank.methods import Method
from robust_lowrank.optim.replay import repeatable
from robust_lowrank.ranks import Assigned, Budget, energies, ranks_of, require_values
from robust_lowrank.submodules import put, uncompiled

GRID = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # beside rank 1: of the ranks that take less than the weight: where layers are timed
TOLERANCE = 0.1  # by which the finished network may be slower than the budget before somebody is told
LOOKS = 3  # at a network that seems to be slower than that


class Latency(NamedTuple):
    """Milliseconds of a forward pass: allowed, of the dense network, and of the one with factors."""

    allowed: float
    dense: float
    factors: float


@dataclass(frozen=True)
class Timed:
    """A layer's options: the ranks at which its factors are faster than its weight, and () for the weight itself, which is last."""

    ranks: list[Ranks]
    options: Options  # seconds, and the energy that is kept


def assign_by_latency(
    model: nn.Module, candidates: Sequence[Candidate], method: Method, budget: Budget, example_input: Any
) -> tuple[Assigned, Latency]:
    """Return the ranks with which a pass takes no more than the budget's milliseconds, and what it was measured to take.

    Raises:
        UserError: there is no example input, the network does not run on it, the dense network is fast enough, or no choice of
            ranks is.
    """
    if example_input is None:
        raise UserError("a budget of milliseconds is measured: give example_input, such as a batch of images")
    assert budget.latency_ms is not None
    example, allowed = of_batch(example_input, budget.batch), budget.latency_ms / 1000
    with repeatable(model):
        network = copy.deepcopy(uncompiled(model)).eval()
        timed = time_options(network, candidates, method, example)
        layers = [each.options for each in timed.values()]

        def share_of(chosen: Sequence[int]) -> float:
            trial = _with_factors(network, candidates, method, _ranks(timed, chosen), example)
            return _share(network, trial, example)

        dense = median(seconds for (seconds,) in time_in_turn((network,), example))
        if dense <= allowed:
            raise UserError(f"latency_ms = {budget.latency_ms:g}: dense, the network takes {1000 * dense:.3g} ms already")
        fitted = fit(layers, lambda chosen: share_of(chosen) * dense, limit=allowed, whole=dense)
    if fitted.cost > allowed:
        raise UserError(
            f"latency_ms = {budget.latency_ms:g} cannot be reached: with every layer in its fastest form the network takes "
            f"{1000 * fitted.cost:.3g} ms, dense {1000 * dense:.3g} ms. Raise it, or take a network with fewer or narrower layers"
        )
    ranks = _ranks(timed, fitted.chosen)
    kept = {candidate.name: _reason(timed.get(candidate.name)) for candidate in candidates if candidate.name not in ranks}
    return Assigned(ranks, kept, {}), Latency(1000 * allowed, 1000 * dense, 1000 * fitted.cost)


def timed_again(model: nn.Module, latency: Latency, budget: Budget, example_input: Any) -> Latency:
    """Return the milliseconds of a finished network as its export in factors takes them, with a warning if they are too many.

    They may be: what else runs, and how the memory of the process lies by now, changes the times of small passes by a quarter.
    """
    dense, network = (plain(model, form).eval() for form in (never, always))
    example, allowed = of_batch(example_input, budget.batch), (1 + TOLERANCE) * latency.allowed
    looks: list[float] = []
    with repeatable(model):
        while len(looks) < LOOKS and (not looks or min(looks) > allowed):
            looks.append(_share(dense, network, example) * latency.dense)
    if min(looks) > allowed:
        warnings.warn(
            f"latency_ms = {latency.allowed:g}: at these ranks the network took {latency.factors:.3g} ms, and finished it takes "
            f"{min(looks):.3g} ms. Try again when nothing else runs, or give a lower budget",
            stacklevel=4,
        )
    return latency._replace(factors=min(looks))


def _share(dense: nn.Module, network: nn.Module, example: Any) -> float:
    """Return what a pass takes as a share of the dense network's, timed in turn with it, as machines are faster now than then."""
    return median(ours / theirs for ours, theirs in time_in_turn((network, dense), example))


def of_batch(example_input: Any, batch: int | None) -> Any:
    """Return an example with so many examples in a batch, which repeat or are left out; as it is if no number is given.

    Raises:
        UserError: its tensors do not all begin with the same number of examples.
    """
    if batch is None:
        return example_input
    sizes = {len(each) if each.dim() else 0 for each in tensors(example_input)}
    if len(sizes) != 1 or 0 in sizes:
        raise UserError("batch needs an example_input whose tensors begin with the same number of examples: leave batch out")
    (size,) = sizes
    of = dict(example_input) if isinstance(example_input, Mapping) else example_input
    return pytree.tree_map(lambda each: each[torch.arange(batch) % size] if isinstance(each, Tensor) else each, of)


@torch.no_grad()
def time_options(network: nn.Module, candidates: Sequence[Candidate], method: Method, example: Any) -> dict[str, Timed]:
    """Return by name what the layers may become that are called in a pass and are faster in factors at some rank, or not.

    Args:
        network: in evaluation mode, with the modules of the candidates by their names.
    """
    form = form_of(method)
    chains = {candidate.names[0]: candidate for candidate in candidates if not isinstance(candidate.layer, Block)}
    require_values({candidate.name: form.weight(candidate.layer) for candidate in chains.values()})
    inputs = _inputs(network, list(chains), example)
    return {
        candidate.name: _timed(network.get_submodule(name), candidate, method, inputs[name])
        for name, candidate in chains.items()
        if name in inputs
    }


def _inputs(network: nn.Module, names: Sequence[str], example: Any) -> dict[str, list[tuple[Tensor, int]]]:
    """Return what layers are called with in a pass, each shape once, with the number of its calls."""
    found: dict[str, dict[Any, tuple[Tensor, int]]] = {}

    def keeper(name: str) -> Callable[..., None]:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            for x in given[:1]:  # chains take no input by its name
                known, key = found.setdefault(name, {}), (x.shape, x.stride())
                known[key] = (known[key][0], known[key][1] + 1) if key in known else (x.clone(), 1)

        return keep

    with ExitStack() as stack:
        for name in names:
            stack.callback(network.get_submodule(name).register_forward_pre_hook(keeper(name)).remove)
        run(network, example)
    return {name: list(known.values()) for name, known in found.items()}


def _timed(layer: nn.Module, candidate: Candidate, method: Method, inputs: list[tuple[Tensor, int]]) -> Timed:
    form = form_of(method)
    weight = form.weight(candidate.layer)
    family = _family(candidate, form)
    measured = sorted({0, *(round(part * len(family)) - 1 for part in GRID)} & set(range(len(family))))
    chains = [_chain(candidate, method, family[index]).factored_layers().eval() for index in measured]
    seconds = torch.zeros(1 + len(chains), dtype=torch.float64)
    for x, calls in inputs:
        rounds = time_in_turn((layer, *chains), x)
        seconds += calls * torch.tensor([median(each) for each in zip(*rounds, strict=True)], dtype=torch.float64)
    dense, *factored = seconds.tolist()
    kept = _kept(energies(weight, form.modes_of(weight)), family)
    costs = _interpolated(measured, factored, len(family))
    faster = [index for index, cost in enumerate(costs) if cost < (1 - SAME) * dense]
    options = Options([*(costs[index] for index in faster), dense], [*(kept[index] for index in faster), 1.0])
    return Timed([*(family[index] for index in faster), ()], options)


def _family(candidate: Candidate, form: Form) -> list[Ranks]:
    """Return from few to many the ranks at which factors take less than the weight, the same share of all modes of a kernel."""
    name, layer = candidate.name, candidate.layer
    weight = form.weight(layer)
    full = min(weight.flatten(1).shape)
    family = dict.fromkeys(ranks_of(name, layer, form, r if weight.ndim == 2 else r / full) for r in range(1, full + 1))
    return [ranks for ranks in family if form.shipped(layer, ranks) < layer.weight.numel()]


def _kept(shares: Sequence[Tensor], family: Sequence[Ranks]) -> list[float]:
    """Return the energy of the weight that is kept at least: all but what each mode loses."""
    sums = [share.double().cumsum(0).tolist() for share in shares]
    return [1 - sum(1 - kept[rank - 1] for kept, rank in zip(sums, ranks, strict=False)) for ranks in family]


def _interpolated(points: Sequence[int], values: Sequence[float], count: int) -> list[float]:
    """Return values at 0, 1, ..., count - 1, linear between those at some points."""
    import numpy as np

    return np.interp(range(count), points, values).tolist() if points else []


def _ranks(timed: dict[str, Timed], chosen: Sequence[int]) -> dict[str, Ranks]:
    """Return the ranks of the layers that a choice factors."""
    ranks = {name: each.ranks[index] for (name, each), index in zip(timed.items(), chosen, strict=True)}
    return {name: each for name, each in ranks.items() if each}


def _with_factors(
    network: nn.Module, candidates: Sequence[Candidate], method: Method, ranks: dict[str, Ranks], example: Any
) -> nn.Module:
    """Return a copy of a network as it is exported with factors of these ranks, of random values."""
    trial = copy.deepcopy(network)
    for candidate in candidates:
        if candidate.name in ranks:
            layer = _chain(candidate, method, ranks[candidate.name])
            for name in candidate.names:
                put(trial, name, layer)
    trial.eval()
    run(trial, example)  # layers that others read notice it, and are merged
    return plain(trial, always)


def _chain(candidate: Candidate, method: Method, ranks: Ranks) -> ChainLayer:
    """Return the layer with factors of these ranks, of random values, as zeros take less time on some devices."""
    weight = form_of(method).weight(candidate.layer)
    layer = build(candidate.layer, gaussian_factors(weight, ranks), method)
    assert isinstance(layer, ChainLayer)
    return layer


def _reason(timed: Timed | None) -> str:
    """Return why a layer stays dense."""
    if timed is None:
        return "its weight is merged in a pass, or takes no part in it: no rank makes that faster"
    if len(timed.ranks) == 1:
        return f"its factors are at no rank faster than its weight, {1000 * timed.options.costs[-1]:.2g} ms"
    return f"the budget has the {1000 * timed.options.costs[-1]:.2g} ms of its weight"
