"""APGD climbs cross-entropy or a ratio of logit differences by steps that shorten themselves."""

import itertools
import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.errors import unknown_name
from robust_lowrank.evaluation.attacks.apgd_paths import MomentumPath, SparsePath
from robust_lowrank.evaluation.attacks.base import NativeAttack, named
from robust_lowrank.evaluation.attacks.gradients import Loss, cross_entropy, dlr, input_gradient, runner_up_classes, targeted_dlr
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.network.fixed_batch import ahead
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, Threat, per_example

Objective = Callable[[Tensor, Tensor], Tensor]  # of logits and of the rows that they belong to

LOSSES = ("ce", "dlr", "targeted-dlr")
STEPS, TARGETS = 100, 9  # of AutoAttack standard


class APGD(NativeAttack):
    """PGD whose steps shorten by themselves (Auto-PGD), on the cross-entropy, the DLR loss, or the targeted DLR loss."""

    attack: Literal["apgd"] = "apgd"
    maskable: ClassVar[bool] = True
    turn: ClassVar[int] = 60
    title: ClassVar[str | None] = "APGD"
    loss: Literal["ce", "dlr", "targeted-dlr"] = "ce"
    steps: Tries = STEPS
    restarts: Tries = 1
    targets: Tries = TARGETS  # of the targeted loss, at most one less than there are classes

    @property
    def label(self) -> str:
        """The name in results, such as apgd-ce, or apgd-t with targets."""
        return self.name or named(
            "apgd-t" if self.loss == "targeted-dlr" else f"apgd-{self.loss}", self.steps, STEPS, self.restarts
        )

    @property
    def purpose(self) -> str:
        """The attack and its loss."""
        return f"apgd-{self.loss}"

    def cost(self, classes: int, norm: str) -> int:
        """Return two passes a step and a start, for every target and restart, and one to find the targets."""
        targeted = self.loss == "targeted-dlr"
        runs = self.restarts * (min(self.targets, classes - 1) if targeted else 1)
        return 2 * runs * (self.steps + apgd_starts(norm)) + targeted

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the steps."""
        return apgd(
            model, x, y, threat, noise=noise, loss=self.loss, steps=self.steps, restarts=self.restarts, targets=self.targets
        )


def apgd_starts(norm: str) -> int:
    """Return how often a run of APGD begins: for L1 within three budgets, one after the other."""
    return 3 if norm == "L1" else 1


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    noise: KeyedNoise,
    loss: Literal["ce", "dlr", "targeted-dlr"] | Loss = "ce",
    steps: int = 100,
    restarts: int = 1,
    targets: int | Tensor = 9,
) -> Attempt:
    """Climb a loss from random starts, each example with steps of its own length, until an input breaks it.

    A run spends one forward and one backward on its start and on each step. With `targeted-dlr` there are `restarts` runs for
    each of the `targets` classes with the largest clean logits other than the label's, and one forward more to find those, or
    for each of the classes that `targets` names, (N, K). For L1 a run takes 30 % of its steps within 3 eps, 30 % within 2 eps and
    the rest within eps, with a start for each of the three. `loss` may be any function of logits (N, classes) and labels that
    gives each example a number, larger for a more harmful input.

    Example:
        >>> noise = KeyedNoise(0, "apgd-ce", torch.arange(len(x)))
        >>> apgd(model, x, y, Linf(8 / 255), noise=noise, restarts=5)

    Raises:
        UserError: the loss is unknown or needs more classes than the model has.

    Source: Croce and Hein 2020 (arXiv 2003.01690); for L1, Croce and Hein 2021 (arXiv 2103.01208). Parameters are those of
    AutoAttack. It differs in one count: whether the first step raised the loss is seen against the start, as published.
    """
    if not callable(loss) and loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    search = Search(x, y)
    order = None if loss != "targeted-dlr" else _targets(model, search, targets) if isinstance(targets, int) else targets
    trials = list(itertools.product(range(1 if order is None else order.shape[1]), range(restarts)))
    while trials and len(rows := search.open):
        count = ahead(model, len(rows), len(trials))
        begun, trials = trials[:count], trials[count:]
        wave = search.side_by_side(rows, count)
        target = None if order is None else torch.cat([order[rows, number] for number, _ in begun])
        objective = _objective(loss, wave.y, target)
        own = noise.of(rows)
        point = torch.cat([_start(threat, x[rows], own.at(restart=restart, step=number)) for number, restart in begun])
        climbing = wave.open
        for ball, share in _balls(threat, steps):
            climbing, point = _climb(wave, climbing, point, model, objective, ball, share, judged=ball == threat)
            if len(climbing) == 0:
                break
        search.merge(rows, wave)
    return search.attempt()


def _targets(model: nn.Module, search: Search, count: int) -> Tensor:
    """Return the classes to go for, those of largest clean logits first, (N, K)."""
    with torch.no_grad():
        logits = model(search.x)
    search.see(torch.arange(len(search.y), device=search.y.device), search.x, logits)
    return runner_up_classes(logits, search.y, count)


def _objective(loss: str | Loss, y: Tensor, target: Tensor | None) -> Objective:
    if target is not None:
        return lambda logits, rows: targeted_dlr(logits, y[rows], target[rows])
    kind = loss if callable(loss) else cross_entropy if loss == "ce" else dlr
    return lambda logits, rows: kind(logits, y[rows])


def _balls(threat: Threat, steps: int) -> list[tuple[Threat, int]]:
    """Return the threat models to climb within, one after the other, and the steps for each; the last one is `threat`."""
    if threat.norm != "L1":
        return [(threat, steps)]
    first = math.ceil(0.3 * steps)
    second = min(first, steps - first)
    return [(threat.resized(3 * threat.eps), first), (threat.resized(2 * threat.eps), second), (threat, steps - first - second)]


def _start(threat: Threat, x: Tensor, noise: KeyedNoise) -> Tensor:
    """Return points in a random direction, for Linf and L2 at distance eps."""
    shape = x.shape[1:]
    change = 2 * noise.uniform(shape) - 1 if threat.norm == "Linf" else noise.normal(shape)
    if threat.norm != "L1":
        length = threat.distance(torch.zeros_like(change), change)
        change *= per_example(threat.eps / length, change)
    return x + change.to(x.dtype)


def _climb(
    search: Search,
    rows: Tensor,
    start: Tensor,
    model: nn.Module,
    objective: Objective,
    ball: Threat,
    steps: int,
    *,
    judged: bool,
) -> tuple[Tensor, Tensor]:
    """Climb within a ball; return the rows that are left and their best points. Only what is `judged` can break an example."""

    def evaluate(point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, loss, gradient, finite = input_gradient(model, point, rows, objective)
        gradient = ball.movable(gradient)
        if judged:
            search.see(rows, point, logits, gradient)
        else:
            search.count(rows, logits, gradient)
        return loss, gradient, (finite & search.going[rows]).nonzero().squeeze(1)

    kind = SparsePath if ball.norm == "L1" else MomentumPath
    point = ball.project(search.x[rows], start)
    loss, gradient, kept = evaluate(point)
    path = kind(ball, search.x[rows], point, loss, gradient, steps)
    path.keep(kept)
    rows = rows[kept]
    for _ in range(steps):
        if len(rows) == 0:
            break
        point = path.next()
        loss, gradient, kept = evaluate(point)
        path.arrive(point, loss, gradient)
        if len(kept) < len(rows):
            path.keep(kept)
            rows = rows[kept]
    return rows, path.best
