"""Inference costs are the operations and the time of a forward pass, measured beside those of the dense network."""

import torch
from torch import Tensor, nn

from robust_lowrank.exporting import export
from robust_lowrank.exporting.timing import time_passes
from robust_lowrank.models.programs import float_type_of
from robust_lowrank.provenance import machine
from robust_lowrank.records import Costs, Latency

BATCHES = (1, 64)


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
        (ours, passes), (theirs, dense_passes) = time_passes(lean, x), time_passes(dense, x)
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
