"""APGD: steps that shorten themselves, on the cross-entropy or on ratios of logit differences."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from robust_lowrank.errors import unknown_name
from robust_lowrank.evaluation.engines.apgd_paths import MomentumPath, SparsePath
from robust_lowrank.evaluation.engines.losses import ascent, cross_entropy, dlr, targeted_dlr
from robust_lowrank.evaluation.engines.search import Attempt, Search
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.threat import L1, Linf, Threat

Objective = Callable[[Tensor, Tensor], Tensor]  # of logits and of the rows that they belong to

LOSSES = ("ce", "dlr", "targeted-dlr")


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    noise: KeyedNoise,
    loss: Literal["ce", "dlr", "targeted-dlr"] = "ce",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
) -> Attempt:
    """Climb a loss from random starts, each example with steps of its own length, until an input breaks it.

    A run spends one forward and one backward on its start and on each step. With `targeted-dlr` there are `restarts` runs for
    each of the `targets` classes with the largest clean logits other than the label's, and one forward more to find those. For
    L1 a run takes 30 % of its steps within 3 eps, 30 % within 2 eps and the rest within eps, with a start for each of the three.

    Example:
        >>> noise = KeyedNoise(0, "apgd-ce", torch.arange(len(x)))
        >>> apgd(model, x, y, Linf(8 / 255), noise=noise, restarts=5)

    Raises:
        UserError: the loss is unknown or needs more classes than the model has.

    Source: Croce and Hein 2020 (arXiv 2003.01690); for L1, Croce and Hein 2021 (arXiv 2103.01208). Parameters are those of
    AutoAttack. It differs in one count: whether the first step raised the loss is seen against the start, as published.
    """
    if loss not in LOSSES:
        raise unknown_name("loss", loss, LOSSES)
    search = Search(x, y)
    for number, objective in enumerate(_objectives(model, search, loss, targets)):
        for restart in range(restarts):
            rows = search.open
            if len(rows) == 0:
                return search.attempt()
            own = replace(noise, examples=noise.examples[rows]).at(restart=restart, step=number)
            _run(search, rows, model, objective, threat, own, steps)
    return search.attempt()


def ranked_targets(logits: Tensor, y: Tensor) -> Tensor:
    """Return the classes other than the label, those with the largest logits first, (N, classes - 1) int64.

    Example:
        >>> ranked_targets(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([1]))
        tensor([[2, 0]])
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def _objectives(model: nn.Module, search: Search, loss: str, targets: int) -> list[Objective]:
    y = search.y
    if loss != "targeted-dlr":
        kind = cross_entropy if loss == "ce" else dlr
        return [lambda logits, rows: kind(logits, y[rows])]
    with torch.no_grad():
        logits = model(search.x)
    search.see(torch.arange(len(y), device=y.device), search.x, logits)

    def towards(target: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        return targeted_dlr(logits, y[rows], target[rows])

    return [partial(towards, target) for target in ranked_targets(logits, y)[:, :targets].unbind(dim=1)]


def _run(
    search: Search, rows: Tensor, model: nn.Module, objective: Objective, threat: Threat, noise: KeyedNoise, steps: int
) -> None:
    start = _start(threat, search.x[rows], noise)
    for ball, share in _balls(threat, steps):
        rows, start = _climb(search, rows, start, model, objective, ball, share, judged=ball == threat)
        if len(rows) == 0:
            break


def _balls(threat: Threat, steps: int) -> list[tuple[Threat, int]]:
    """Return the threat models to climb within, one after the other, and the steps for each; the last one is `threat`."""
    if not isinstance(threat, L1):
        return [(threat, steps)]
    first = math.ceil(0.3 * steps)
    second = min(first, steps - first)
    return [(L1(3 * threat.eps), first), (L1(2 * threat.eps), second), (threat, steps - first - second)]


def _start(threat: Threat, x: Tensor, noise: KeyedNoise) -> Tensor:
    """Return points in a random direction, for Linf and L2 at distance eps."""
    shape = x.shape[1:]
    change = 2 * noise.uniform(shape) - 1 if isinstance(threat, Linf) else noise.normal(shape)
    if not isinstance(threat, L1):
        length = threat.distance(torch.zeros_like(change), change)
        change *= threat.eps / length.reshape(-1, *[1] * len(shape))
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
        logits, loss, gradient, finite = ascent(model, point, lambda logits: objective(logits, rows))
        if judged:
            finite = finite & (search.see(rows, point, logits, gradient) >= 0)
        else:
            search.count(rows, logits, gradient)
        return loss, gradient, finite.nonzero().squeeze(1)

    kind = SparsePath if isinstance(ball, L1) else MomentumPath
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
