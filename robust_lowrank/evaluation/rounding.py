"""Rounding alone may change a verdict: each is formed again in other batches, orders, precisions, threads and forms."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError, shown
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.target import FAILURES, Target
from robust_lowrank.evaluation.result import CLEAN, Adversarial
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.threat import frozen_eval

BATCHES = (1, 256)
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16)

Logits = Callable[[Tensor], Tensor]


class Recomputed(NamedTuple):
    """The verdicts of one attack at one eps, or on clean examples, formed again in one other way."""

    way: str  # such as "batches of 1", "float64" or "2 threads"
    attack: str  # "clean" for the examples as they are
    eps: float
    tried: int  # inputs
    changed: tuple[int, ...]  # the examples on whose inputs the network is right in the one way and wrong in the other


def recompute(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    stored: Sequence[Mapping[str, Adversarial]],
    forms: Mapping[str, nn.Module] | None = None,
) -> list[Recomputed]:
    """Say of which inputs the verdict depends on how the same numbers are summed.

    The verdict on an input is whether the network is right on it. It is formed as evaluations do, in batches of one size, and again
    with the examples in reverse, in other batches, in other precisions, on another number of threads, and by other forms of the
    network. A way that the network cannot take, such as a precision that one of its layers lacks, is left out.

    Example:
        >>> found = recompute(model, x, y, [result.adversarial, result.closest])
        >>> {each.way: len(each.changed) for each in found if each.attack == "pgd-20"}
        {'reversed': 0, 'batches of 1': 0, 'batches of 256': 0, 'float64': 1, 'bfloat16': 12, '2 threads': 0}

    Args:
        x: all examples, on any device.
        stored: the inputs that attacks found, by attack and eps: those that broke an example, and those that nearly did.
        forms: the same network in other forms, by what they are called, such as its factors merged.

    Raises:
        UserError: an input is of none of the examples.
    """
    groups = {(CLEAN, 0.0): Adversarial(x.cpu(), torch.arange(len(x)))} | _joined(stored)
    for (attack, eps), each in groups.items():
        if each.inputs.shape[1:] != x.shape[1:] or not bool(((each.examples >= 0) & (each.examples < len(x))).all()):
            raise UserError(f"inputs of {shown(attack)} at {eps:g} are of other examples than these: attack the network again")
    labels = {key: y.cpu()[each.examples] for key, each in groups.items()}

    def verdicts(logits: Logits) -> dict[tuple[str, float], Tensor]:
        return {key: _right(logits, each.inputs, labels[key]) for key, each in groups.items()}

    found = []
    with frozen_eval(model), torch.no_grad():
        own = verdicts(_fixed(model, x))
        for way, made in _ways(model, x, forms or {}):
            try:
                other = verdicts(made())
            except (*FAILURES, UserError):
                continue
            for key, each in groups.items():
                changed = sorted(set(each.examples[own[key] != other[key]].tolist()))
                found.append(Recomputed(way, *key, len(each.inputs), tuple(changed)))
    return found


def _ways(model: nn.Module, x: Tensor, forms: Mapping[str, nn.Module]) -> Iterator[tuple[str, Callable[[], Logits]]]:
    """Yield the ways by name, each as a function that makes it."""
    target = Target(model, x)
    fixed = _fixed(model, x)
    yield "reversed", lambda: lambda points: fixed(points.flip(0)).flip(0)
    for size in () if target.alone else BATCHES:
        yield f"batches of {size}", partial(partial, _in_batches, target, size)
    for precision in PRECISIONS:
        if precision != target.typed(x[:1]).dtype:
            yield str(precision).removeprefix("torch."), lambda precision=precision: _fixed(copy.deepcopy(model).to(precision), x)
    if target.device.type == "cpu":
        threads = 1 if torch.get_num_threads() > 1 else 2
        yield f"{threads} thread{'s' if threads > 1 else ''}", partial(partial, _on_threads, threads, fixed)
    for name, form in forms.items():
        yield name, lambda form=form: _fixed(form.eval(), x)


def _fixed(model: nn.Module, x: Tensor) -> Logits:
    """Return the logits as evaluations compute them."""
    network = FixedBatch(Target(model, x))
    return partial(_in_batches, network, network.room)


def _in_batches(network: FixedBatch | Target, size: int, points: Tensor) -> Tensor:
    return torch.cat([network(part.to(network.device)).cpu() for part in points.split(size)])


def _on_threads(threads: int, logits: Logits, points: Tensor) -> Tensor:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return logits(points)
    finally:
        torch.set_num_threads(before)


def _right(logits: Logits, inputs: Tensor, labels: Tensor) -> Tensor:
    if not len(inputs):
        return torch.zeros(0, dtype=torch.bool)
    found = logits(inputs)
    return found.isfinite().all(dim=1) & ~(margins(found, labels) < 0)


def _joined(stored: Sequence[Mapping[str, Adversarial]]) -> dict[tuple[str, float], Adversarial]:
    """Return all inputs of each attack and eps together."""
    parts: dict[tuple[str, float], list[Adversarial]] = {}
    for key, each in ((key, each) for found in stored for key, each in found.items()):
        attack, _, eps = key.rpartition("/")
        parts.setdefault((attack, float(eps)), []).append(each)
    return {key: Adversarial(*(torch.cat(tensors) for tensors in zip(*each, strict=True))) for key, each in parts.items()}
