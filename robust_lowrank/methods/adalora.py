"""AdaLoRA trains updates P diag(lambda) Q^T whose triplets compete for a shrinking budget by importance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.methods.base import Memory, Method
from robust_lowrank.penalties import Penalty


class Sensitivity(NamedTuple):
    """Smoothed importance |w dL/dw| of a factor's entries, and its smoothed deviation."""

    importance: Tensor
    uncertainty: Tensor


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(Method):
    """Train W_pre + P diag(lambda) Q^T with soft orthonormality, and zero the least important triplets of all layers together.

    The number of triplets that count falls from those of the start to `budget` along a cubic, between the steps `warmup` and
    `steps - settle`; every `interval` steps the others' lambda is set to zero, from where they may come back. With the last of the
    falling steps the choice is made for good.

    Args:
        budget: triplets of all layers together at the end.
        steps: of the whole training.
        warmup, settle: steps before the budget starts to fall, and after it has reached its end.
        interval: steps between two allocations.
        penalty: the weight of ||P^T P - I||^2 + ||Q^T Q - I||^2.
        smoothing, deviation: the decay of the averages of importance and of its uncertainty.

    Example:
        >>> method = AdaLoRA(budget=10, steps=100, warmup=20, settle=20)
        >>> [method.allowed_triplets(step, first=40) for step in (0, 50, 90)]
        [40, 14, 10]

    Raises:
        UserError: the steps do not fit into one another, or a number is out of range.

    Source: Zhang et al. 2023, arXiv 2303.10512.
    """

    name: ClassVar[str] = "adalora"
    adapter: ClassVar[bool] = True
    budget: int
    steps: int
    warmup: int = 0
    settle: int = 0
    interval: int = 1
    penalty: float = 0.1
    smoothing: float = 0.85
    deviation: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.penalty < float("inf"):
            raise UserError(f"penalty = {self.penalty} must be a number from 0")
        if self.budget < 1 or self.interval < 1:
            raise UserError(f"budget = {self.budget} and interval = {self.interval} must be at least 1")
        if min(self.warmup, self.settle) < 0 or self.warmup + self.settle >= self.steps:
            raise UserError(
                f"warmup = {self.warmup} and settle = {self.settle} leave no step of {self.steps} for the budget to fall: cut them"
            )
        if not (0 <= self.smoothing < 1 and 0 <= self.deviation < 1):
            raise UserError(f"smoothing = {self.smoothing} and deviation = {self.deviation} must lie in [0, 1)")

    @property
    def form(self) -> str:
        """P diag(lambda) Q^T without constraint."""
        return "diagonal"

    @property
    def term(self) -> Penalty:
        """The penalty on each of P and Q."""
        return Penalty(form="SO", weight=self.penalty, on="factors")

    def memory(self) -> Memory:
        """Return the competition of all layers' triplets."""
        return Allocation(self)

    def allowed_triplets(self, step: int, first: int) -> int:
        """Return how many of the `first` triplets may count at a step."""
        span = self.steps - self.warmup - self.settle
        left = 1 - min(max(step - self.warmup, 0), span) / span
        return round(self.budget + (first - self.budget) * left**3) if first > self.budget else first

    def observe(self, before: Sensitivity | None, weight: Tensor, gradient: Tensor) -> Sensitivity:
        """Return the averages after one more step."""
        now = (weight * gradient).abs()
        if before is None:
            before = Sensitivity(torch.zeros_like(now), torch.zeros_like(now))
        importance = self.smoothing * before.importance + (1 - self.smoothing) * now
        uncertainty = self.deviation * before.uncertainty + (1 - self.deviation) * (now - importance).abs()
        return Sensitivity(importance, uncertainty)


def triplet_scores(p: Sensitivity, values: Sensitivity, q: Sensitivity) -> Tensor:
    """Return each triplet's score: its lambda's importance times uncertainty, plus the means over its columns of P and Q."""
    column_means = (factor.importance.mul(factor.uncertainty).mean(0) for factor in (p, q))
    return sum(column_means, start=values.importance * values.uncertainty)


def kept_triplets(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return for each layer which of its triplets are among the `count` with the highest scores of all."""
    pooled = torch.cat(list(scores))
    kept = torch.zeros_like(pooled, dtype=torch.bool)
    kept[pooled.topk(min(count, len(pooled))).indices] = True
    return list(kept.split([len(score) for score in scores]))


class Allocation(Memory):
    """Keeps the sensitivities of (P, lambda, Q) of all layers, and zeroes the triplets that lose."""

    def __init__(self, method: AdaLoRA) -> None:
        self.method = method
        self.sensitivity: dict[str, tuple[Sensitivity, ...]] = {}
        self.chosen: dict[str, Tensor] = {}  # the triplets that count at the end of the training

    def after_step(self, layers: Mapping[str, tuple[nn.Parameter, ...]], step: int) -> None:
        """Look at the gradients of the step just taken, and allocate where it is time to."""
        for name, factors in layers.items():
            gradients = [factor.grad for factor in factors if factor.grad is not None]
            if len(gradients) < len(factors):
                return
            before = self.sensitivity.get(name, (None, None, None))
            self.sensitivity[name] = tuple(
                self.method.observe(old, factor.detach(), gradient)
                for old, factor, gradient in zip(before, factors, gradients, strict=True)
            )
        self._allocate({name: values for name, (_, values, _) in layers.items()}, step)

    def _allocate(self, values: Mapping[str, nn.Parameter], step: int) -> None:
        first = sum(each.numel() for each in values.values())
        count = self.method.allowed_triplets(step, first)
        ends = step >= self.method.steps - self.method.settle - 1
        if count >= first or (step % self.method.interval and not ends):
            return
        kept = self.chosen
        if not kept:
            masks = kept_triplets([triplet_scores(*self.sensitivity[name]) for name in values], count)
            kept = dict(zip(values, masks, strict=True))
        if ends:
            self.chosen = kept
        for name, each in values.items():
            each.data *= kept[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the sensitivities, and the final choice if it is made, as plain tensors."""
        sensitivity = {name: [tuple(factor) for factor in factors] for name, factors in self.sensitivity.items()}
        return {"sensitivity": sensitivity, "chosen": dict(self.chosen)}

    def load_state_dict(self, state: dict[str, Any], layers: Mapping[str, tuple[nn.Parameter, ...]]) -> None:
        """Take up what `state_dict` returned."""
        devices = {name: factors[0].device for name, factors in layers.items()}
        self.sensitivity = {
            name: tuple(Sensitivity(*(part.to(devices[name]) for part in factor)) for factor in factors)
            for name, factors in state["sensitivity"].items()
        }
        self.chosen = {name: mask.to(devices[name]) for name, mask in state["chosen"].items()}
