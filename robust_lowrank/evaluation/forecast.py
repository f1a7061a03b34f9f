"""What an evaluation will cost, before it starts."""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.engines.slope import slope
from robust_lowrank.evaluation.hygiene import left_as_found
from robust_lowrank.evaluation.question import Question
from robust_lowrank.evaluation.steady import Steady
from robust_lowrank.evaluation.work import Work

REPEATS = 3  # of which the fastest counts


class Share(NamedTuple):
    """One attack at one eps."""

    attack: str
    eps: float
    passes: int
    seconds: float


class Forecast(NamedTuple):
    """The most that an evaluation takes: all examples are classified correctly and nothing breaks them."""

    shares: list[Share]
    examples: int
    passes: int  # forward and backward, of one example each
    seconds: float  # at the speed measured now, without other load
    memory: int  # bytes that one batch keeps for the backward pass


def forecast(model: nn.Module, x: Tensor, y: Tensor, question: Question) -> Forecast:
    """Predict passes, time and memory from the parameters of the attacks and the speed of one batch.

    Example:
        >>> forecast(model, x, y, ask("standard", eps="8/255")).seconds / 3600

    Raises:
        UserError: as `evaluate`.
    """
    with left_as_found(model):
        work = Work(model, x, y, question)
        batch = x[: work.steady.piece].to(work.target.device)
        labels = y[: len(batch)].to(work.target.device)
        forward, both, kept = _measured(work.steady, batch, labels, gradients=question.gradients)
    shares = []
    for unit in work.units:
        repeated = unit.spec.minimal and any(share.attack == unit.name for share in shares)
        passes = 0 if repeated else unit.work * len(x)
        shares.append(Share(unit.name, unit.threat.eps, passes, passes * (both / 2 if unit.spec.gradients else forward)))
    rows = min(question.batch_size, len(x))
    memory = kept * rows if any(unit.spec.gradients for unit in work.units) else 0
    return Forecast(shares, len(x), sum(share.passes for share in shares), sum(share.seconds for share in shares), memory)


def _measured(steady: Steady, x: Tensor, y: Tensor, *, gradients: bool) -> tuple[float, float, int]:
    """Return the seconds of a forward and of a forward with its backward, and the bytes kept in between, for one example."""
    with torch.no_grad():
        forward = min(_seconds(lambda: steady(x), x.device) for _ in range(REPEATS))
    if not gradients:
        return forward / steady.piece, 0.0, 0
    both = min(_seconds(lambda: slope(steady, x, y), x.device) for _ in range(REPEATS))
    kept: dict[int, int] = {}
    weights = {tensor.data_ptr() for tensor in steady.target.model.state_dict().values()}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        slope(steady, x, y)
    return forward / steady.piece, both / steady.piece, sum(kept.values()) // steady.piece


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun
