"""PGD: steps of fixed length that climb the cross-entropy, with or without momentum."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.engines.search import Attempt, Search
from robust_lowrank.evaluation.engines.slope import slope
from robust_lowrank.evaluation.threat import Threat


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
) -> Attempt:
    """Climb the loss by steps of fixed length along the steepest direction, projecting after each.

    Every element of `starts`, an (N, ...) tensor, is a restart. An example is finished at the first input that breaks it. For one
    that nothing breaks, the input with the smallest margin is returned. With `momentum` (mu), the direction is the steepest one
    of the running sum `g <- mu g + gradient / mean |gradient|`.

    Example:
        >>> noise = KeyedNoise(0, "pgd", torch.arange(len(x)))
        >>> starts = (threat.random_start(x, noise.at(restart=r)) for r in range(5))
        >>> pgd(model, x, y, threat, starts=starts, steps=20, step_size=2.5 * threat.eps / 20)

    Source: Madry et al. 2018 (arXiv 1706.06083), methods (30) and (31); momentum: Dong et al. 2018 (arXiv 1710.06081).
    """
    search = Search(x, y)
    for start in starts:
        rows = search.open
        if len(rows) == 0:
            break
        point = threat.project(x[rows], start[rows])
        running = torch.zeros_like(point)
        for _ in range(steps):
            logits, gradient, finite = slope(model, point, y[rows])
            margin = search.see(rows, point, logits, gradient)
            stays = finite & (margin >= 0)
            if momentum:
                running = momentum * running + _normalised(gradient)
                gradient = running
            moved = threat.project(x[rows], point + step_size * threat.steepest(gradient))
            rows, point, running = rows[stays], moved[stays], running[stays]
            if len(rows) == 0:
                break
        else:
            with torch.no_grad():
                search.see(rows, point, model(point))
    return search.attempt()


def _normalised(gradient: Tensor) -> Tensor:
    size = gradient.flatten(1).abs().mean(dim=1).reshape(-1, *[1] * (gradient.dim() - 1))
    return gradient / torch.where(size > 0, size, 1.0)
