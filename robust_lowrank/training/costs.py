"""Inference costs are the operations and the time of a forward pass, measured beside those of the dense network."""

from pathlib import Path
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from robust_lowrank import records
from robust_lowrank.exporting import export
from robust_lowrank.exporting.timing import time_in_turn
from robust_lowrank.models.programs import float_type_of
from robust_lowrank.provenance import machine
from robust_lowrank.records import Costs, Latency
from robust_lowrank.training.networks import described, load_network

BATCHES = (1, 64)


def record_costs(out: Path, device: torch.device) -> None:
    """Measure a complete run that has no costs yet, and add them to its record: a moment at which nothing else runs is the best.

    A record or a file beside it that is not as it was written is left alone.

    Example:
        >>> record_costs(Path("runs/condlr"), torch.device("cpu"))  # doctest: +SKIP
    """
    files = records.RunFiles(out)
    record = records.read_record(files.record, records.RunRecord)
    if record.status != "complete" or record.costs is not None or records.broken_seals(files.record, record, files.beside):
        return
    network = load_network(out, device, trust_code=True)  # whoever measures it has just trained it
    costs = measure_costs(network, described(record).input_shape)
    records.write_sealed(files.record, record.model_copy(update={"costs": costs}), files.beside)


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
    return Costs(
        flops=count_flops(lean, one),
        dense_flops=count_flops(dense, one),
        latencies=[_latency(lean, dense, one.expand(batch, *input_shape).contiguous()) for batch in BATCHES],
        threads=torch.get_num_threads(),
        machine=machine(device),
    )


def _latency(lean: nn.Module, dense: nn.Module, x: Tensor) -> Latency:
    rounds = time_in_turn((lean, dense), x)
    ours, theirs = (1000 * median(each) for each in zip(*rounds, strict=True))
    low, middle, high = quantiles((a / b for a, b in rounds), n=4, method="inclusive")
    return Latency(
        batch=len(x), milliseconds=ours, dense_milliseconds=theirs, passes=len(rounds), ratio=middle, ratio_low=low, ratio_high=high
    )


@torch.no_grad()
def count_flops(model: nn.Module, x: Tensor) -> int:
    """Return the floating-point operations of one forward pass in matrix products and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()
