"""Something limited is shared out: of each layer's options one is chosen, so that together they are worth most within the limit."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

TICKS = 4000  # that the limit is divided into; costs are rounded up to whole ones
ROUNDING = 1e-9  # of a tick: costs that are whole numbers of them stay so
TRIALS = 6  # choices that are measured as a whole, beside the cheapest one
CLOSE = 0.03  # a choice that uses all but so much of the limit will do


class Options(NamedTuple):
    """What a layer may become: each option's cost, and what it is worth."""

    costs: Sequence[float]
    values: Sequence[float]


def choose(layers: Sequence[Options], limit: float) -> list[int] | None:
    """Return for each layer the index of its option; None if no choice is within the limit.

    No other choice is worth more, but for the rounding of costs to 1/4000 of the limit: a multiple-choice knapsack, solved by
    dynamic programming. Where costs grow linearly and values ever more slowly it is water-filling, which measured costs, with
    their steps and with a dense weight beside the ranks, are not made for.

    Example:
        >>> choose([Options([1, 2, 4], [0.5, 0.9, 1]), Options([1, 2], [0.1, 1])], limit=4)
        [1, 1]

    Source: Kellerer, Pferschy, Pisinger 2004, Knapsack Problems, chapter 11.
    """
    best = torch.zeros(TICKS + 1, dtype=torch.float64)  # the most that layers so far are worth at a cost of at most so many ticks
    taken: list[tuple[torch.Tensor, dict[int, int]]] = []
    for layer in layers:
        found, which = torch.full_like(best, -math.inf), torch.full(best.shape, -1)
        ticks = {index: math.ceil(layer.costs[index] / limit * TICKS - ROUNDING) for index in _worthwhile(layer)}
        for index, cost in ticks.items():
            if cost <= TICKS:
                worth = best[: TICKS + 1 - cost] + layer.values[index]
                better = worth > found[cost:]
                found[cost:][better] = worth[better]
                which[cost:][better] = index
        best = found
        taken.append((which, ticks))
    if best[-1] == -math.inf:
        return None
    chosen, left = [], TICKS
    for which, ticks in reversed(taken):
        chosen.append(int(which[left]))
        left -= ticks[chosen[-1]]
    return chosen[::-1]


class Fitted(NamedTuple):
    """A choice and what it was measured to cost as a whole."""

    chosen: list[int]
    cost: float


def fit(layers: Sequence[Options], measure: Callable[[list[int]], float], *, limit: float, whole: float) -> Fitted:
    """Return the choice that is worth most of those tried whose measured cost is within the limit, or else the cheapest one.

    The costs of layers do not add up to that of the whole, which has other parts and memory to share: their limit is found by
    interpolation between choices on both sides (regula falsi).

    Args:
        measure: of a choice, what it costs as a whole.
        limit: of that, below `whole`.
        whole: what the last options cost together, measured likewise.
    """
    best = [_worthwhile(layer)[0] for layer in layers]
    low, high = (_sum(layers, best), measure(best)), (_sum(layers, [-1] * len(layers)), whole)
    for _ in range(TRIALS if low[1] < limit else 0):
        share = (limit - low[1]) / (high[1] - low[1])
        chosen = choose(layers, low[0] + share * (high[0] - low[0]))
        if chosen is None or chosen == best:
            break
        point = _sum(layers, chosen), measure(chosen)
        if point[1] > limit:
            high = point
            continue
        best, low = chosen, point
        if point[1] >= (1 - CLOSE) * limit:
            break
    return Fitted(best, low[1])


def _sum(layers: Sequence[Options], chosen: Sequence[int]) -> float:
    return sum(layer.costs[index] for layer, index in zip(layers, chosen, strict=True))


def _worthwhile(layer: Options) -> list[int]:
    """Return the options, by their costs, that are worth more than all cheaper ones."""
    kept: list[int] = []
    for index in sorted(range(len(layer.costs)), key=lambda each: (layer.costs[each], -layer.values[each])):
        if not kept or layer.values[index] > layer.values[kept[-1]]:
            kept.append(index)
    return kept
