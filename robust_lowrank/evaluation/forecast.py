"""A forecast says what an evaluation costs."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.inputs import outside_inference
from robust_lowrank.evaluation.network.searching import network_to_search
from robust_lowrank.evaluation.network.target import checked_target
from robust_lowrank.evaluation.suite import EvalConfig
from robust_lowrank.evaluation.units import list_units
from robust_lowrank.threat import frozen_eval

REPEATS = 3  # of which the fastest counts


class Share(NamedTuple):
    """One attack at one eps."""

    attack: str
    eps: float
    passes: int
    seconds: float


class Forecast(NamedTuple):
    """The most that an evaluation takes: all examples are classified correctly and nothing breaks them.

    What fills pieces up, padding and trials ahead, is not among the passes.
    """

    shares: list[Share]
    examples: int
    passes: int  # forward and backward, of one example each
    seconds: float  # at the speed measured now, without other load
    memory: int  # bytes that one batch keeps for the backward pass


def forecast(model: nn.Module, x: Tensor, y: Tensor, config: EvalConfig) -> Forecast:
    """Predict passes, time and memory from the parameters of the attacks and the speed of one batch.

    Example:
        >>> forecast(model, x, y, EvalConfig.resolve("standard", eps="8/255")).seconds / 3600

    Raises:
        UserError: as `evaluate`.
    """
    with frozen_eval(model):
        target, x, y = checked_target(model, x, y), outside_inference(x), outside_inference(y)
        network, units = FixedBatch(target), list_units(config.suite, tuple(x.shape[1:]), target.classes)
        batch = x[: network.piece].to(target.device)
        labels = y[: len(batch)].to(target.device)
        joints = {unit.attack.joint for unit in units}
        searched = network_to_search(network, x) if config.fold and False in joints else network
        speeds = {joint: _measure(network if joint else searched, batch, labels, gradients=config.gradients) for joint in joints}
    shares = []
    for unit in units:
        forward, both, _ = speeds[unit.attack.joint]
        passes = unit.work * len(x)
        shares.append(Share(unit.name, unit.threat.eps, passes, passes * (both / 2 if unit.attack.gradients else forward)))
    rows = min(config.batch_size, len(x))
    memory = max((speeds[unit.attack.joint][2] * rows for unit in units if unit.attack.gradients), default=0)
    return Forecast(shares, len(x), sum(share.passes for share in shares), sum(share.seconds for share in shares), memory)


def _measure(network: FixedBatch, x: Tensor, y: Tensor, *, gradients: bool) -> tuple[float, float, int]:
    """Return the seconds of a forward and of a forward with its backward, and the bytes kept in between, for one example."""
    with torch.no_grad():
        forward = min(_seconds(lambda: network(x), x.device) for _ in range(REPEATS))
    if not gradients:
        return forward / network.piece, 0.0, 0
    both = min(_seconds(lambda: input_gradient(network, x, y), x.device) for _ in range(REPEATS))
    kept: dict[int, int] = {}
    weights = {tensor.data_ptr() for tensor in network.target.model.state_dict().values()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        input_gradient(network, x, y)
    return forward / network.piece, both / network.piece, sum(kept.values()) // network.piece


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
