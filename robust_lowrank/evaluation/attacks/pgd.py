"""PGD climbs the cross-entropy by steps of fixed length, with or without momentum."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.gradients import Loss, dlr, input_gradient, margin_loss, own_cross_entropy
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.network.fixed_batch import ahead
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.ranges import Factor, Tries
from robust_lowrank.threat import KeyedNoise, Threat, per_example

LOSSES: dict[str, Loss] = {"ce": own_cross_entropy, "margin": margin_loss, "dlr": dlr}


class Stepwise(NativeAttack):
    """Steps of length `relative_step * eps / steps` from `restarts` starts."""

    revised: ClassVar[tuple[str, ...]] = ("L1",)
    maskable: ClassVar[bool] = True
    steps: Tries = 20
    relative_step: Factor = 2.5
    restarts: Tries = 1
    random_start: bool = True
    loss: Literal["ce", "margin", "dlr"] = "ce"

    @property
    def label(self) -> str:
        """The name in results, such as pgd-20, pgd-20x5 with five restarts, or pgd-20-margin on another loss."""
        own = f"{self.kind}-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")
        return self.name or own + ("" if self.loss == "ce" else f"-{self.loss}")

    def cost(self, classes: int, norm: str) -> int:
        """Return what all steps of all restarts take, and the evaluation of the last point."""
        return self.restarts * (2 * self.steps + 1)

    def step_size(self, eps: float) -> float:
        """Return the length of a step."""
        return self.relative_step * eps / self.steps

    def details(self, eps: float) -> dict[str, Any]:
        """Return the length of a step."""
        return {"step_size": self.step_size(eps)}

    @model_validator(mode="after")
    def _restarts_differ(self) -> "Stepwise":
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts without random_start repeat the same attack: set random_start or restarts = 1")
        return self

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the steps."""
        return self.climb(model, x, y, threat, noise)

    def climb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise, *, momentum: float = 0.0) -> Attempt:
        """Take the steps from every start."""
        starts = (threat.random_start(x, noise.at(restart=r)) if self.random_start else x for r in range(self.restarts))
        size, loss = self.step_size(threat.eps), LOSSES[self.loss]
        return pgd(model, x, y, threat, starts=starts, steps=self.steps, step_size=size, momentum=momentum, loss=loss)


class PGD(Stepwise):
    """`steps` steps on the cross-entropy, from `restarts` starts."""

    attack: Literal["pgd"] = "pgd"
    turn: ClassVar[int] = 40
    title: ClassVar[str | None] = "PGD"
    rival: ClassVar[str | None] = "fgsm"


class MomentumPGD(Stepwise):
    """PGD along a running sum of normalised gradients, each new one added to `momentum` times the sum (MI-FGSM)."""

    attack: Literal["momentum-pgd"] = "momentum-pgd"
    turn: ClassVar[int] = 50
    momentum: Factor = 1.0

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the steps."""
        return self.climb(model, x, y, threat, noise, momentum=self.momentum)


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    starts: Iterable[Tensor],
    steps: int,
    step_size: float,
    momentum: float = 0.0,
    loss: Loss = own_cross_entropy,
) -> Attempt:
    """Climb the loss by steps of fixed length along the steepest direction, projecting after each.

    Every element of `starts`, an (N, ...) tensor, is a restart. An example is finished at the first input that breaks it. For one
    that nothing breaks, the input with the smallest margin is returned. With `momentum` (mu), the direction is the steepest one
    of the running sum `g <- mu g + gradient / mean |gradient|`. `loss` is any function of logits (N, classes) and labels that gives
    each example a number, larger for a more harmful input.

    Example:
        >>> noise = KeyedNoise(0, "pgd", torch.arange(len(x)))
        >>> starts = (threat.random_start(x, noise.at(restart=r)) for r in range(5))
        >>> pgd(model, x, y, threat, starts=starts, steps=20, step_size=2.5 * threat.eps / 20)

    Source: Madry et al. 2018 (arXiv 1706.06083), methods (30) and (31); momentum: Dong et al. 2018 (arXiv 1710.06081).
    """
    search, left = Search(x, y), iter(starts)
    while len(rows := search.open):
        begun = list(islice(left, ahead(model, len(rows))))
        if not begun:
            break
        wave = search.side_by_side(rows, len(begun))
        _climb(model, wave, torch.cat([start[rows] for start in begun]), threat, steps, step_size, momentum, loss)
        search.merge(rows, wave)
    return search.attempt()


def _climb(
    model: nn.Module, search: Search, start: Tensor, threat: Threat, steps: int, step_size: float, momentum: float, loss: Loss
) -> None:
    """Take the steps from one start each."""
    x, y, rows = search.x, search.y, search.open
    point = threat.project(x, start)
    running = torch.zeros_like(point)
    for _ in range(steps):
        logits, _, gradient, finite = input_gradient(model, point, y[rows], loss)
        search.see(rows, point, logits, gradient)
        stays = finite & search.going[rows]
        if momentum:
            running = momentum * running + _normalised(gradient)
            gradient = running
        moved = threat.project(x[rows], threat.ascend(point, gradient, step_size))
        rows, point, running = rows[stays], moved[stays], running[stays]
        if len(rows) == 0:
            return
    with torch.no_grad():
        search.see(rows, point, model(point))


def _normalised(gradient: Tensor) -> Tensor:
    size = gradient.flatten(1).abs().mean(dim=1)
    return gradient / per_example(torch.where(size > 0, size, 1.0), gradient)
