"""Inference costs are the operations and the time of a forward pass, measured beside those of the dense network."""

import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.exporting import export
from robust_lowrank.models.programs import float_type_of
from robust_lowrank.provenance import machine
from robust_lowrank.records import Costs, Latency

BATCHES = (1, 64)
LEAST_PASSES, MOST_PASSES = 5, 50
ENOUGH_SECONDS = 0.05  # more passes than the least are taken for so long


def measure_costs(model: nn.Module, input_shape: tuple[int, ...]) -> Costs:
    """Measure the forward pass of a network as `export(to="auto")` leaves it, beside that of the dense network.

    A time depends on the machine and on what else runs there; compare those of one machine alone.

    Args:
        model: the network, which stays as it is.
        input_shape: of one example, such as (channels, height, width).

    Example:
        >>> measure_costs(nn.Sequential(nn.Linear(4, 2)), (4,)).flops
        16

    Source: FLOPs as counted by `torch.utils.flop_counter`: 2 a multiplication and addition, in matrix products and convolutions.
    """
    device = next(model.parameters()).device
    lean, dense = (export(model, to=form).eval() for form in ("auto", "dense"))
    one = torch.zeros(1, *input_shape, device=device, dtype=float_type_of(model))
    latencies = []
    for batch in BATCHES:
        x = one.expand(batch, *input_shape).contiguous()
        (ours, passes), (theirs, dense_passes) = _time(lean, x), _time(dense, x)
        passes = min(passes, dense_passes)
        latencies.append(Latency(batch=batch, milliseconds=1000 * ours, dense_milliseconds=1000 * theirs, passes=passes))
    return Costs(
        flops=count_flops(lean, one),
        dense_flops=count_flops(dense, one),
        latencies=latencies,
        threads=torch.get_num_threads(),
        machine=machine(device),
    )


@torch.no_grad()
def count_flops(model: nn.Module, x: Tensor) -> int:
    """Return the floating-point operations of one forward pass in matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


class _Timing(NamedTuple):
    seconds: float  # median
    passes: int


@torch.no_grad()
def _time(model: nn.Module, x: Tensor) -> _Timing:
    def once() -> float:
        started = time.perf_counter()
        model(x)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        return time.perf_counter() - started

    once()
    taken: list[float] = []
    while len(taken) < LEAST_PASSES or (len(taken) < MOST_PASSES and sum(taken) < ENOUGH_SECONDS):
        taken.append(once())
    return _Timing(median(taken), len(taken))
