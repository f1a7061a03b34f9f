"""Pairs of networks are compared on the same examples, with intervals, corrected tests and undecided examples."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from robust_lowrank.statistics.intervals import Interval, require
from robust_lowrank.statistics.paired import discordant, mcnemar_exact, paired_difference


class Bounds(NamedTuple):
    """Verdicts with undecided examples: who is right if all of these count as broken, and if all count as robust."""

    least: np.ndarray  # (N,) bool
    most: np.ndarray  # (N,) bool, True wherever `least` is


class Comparison(NamedTuple):
    """Two networks a and b on the same examples.

    Where examples are undecided, everything but the interval is said of the way to decide them that speaks least for a difference;
    the interval covers every way.
    """

    a: str
    b: str
    only_a: int  # examples that a alone gets right
    only_b: int
    difference: Interval  # accuracy of a less that of b, with its paired bootstrap interval
    p: float  # exact McNemar
    p_holm: float  # corrected over all the comparisons made together


def pairwise(
    verdicts: Mapping[str, np.ndarray | Bounds], *, pairs: Iterable[tuple[str, str]] | None = None, seed: int = 0
) -> list[Comparison]:
    """Compare networks by their verdicts on the same examples, True for right; all comparisons are one family for Holm.

    Example:
        >>> right = np.arange(100)
        >>> [test] = pairwise({"a": right < 80, "b": right < 70})
        >>> test.only_a, test.only_b, test.p_holm
        (10, 0, 0.001953125)

    Args:
        verdicts: by name, (N,) bool, or `Bounds` where some examples are undecided.
        pairs: which names to compare; every two by default.
        seed: of the bootstrap.

    Raises:
        UserError: two networks do not have verdicts on the same examples.
    """
    bounds = {name: right if isinstance(right, Bounds) else Bounds(right, right) for name, right in verdicts.items()}
    tests = [
        Comparison(a, b, *_least_difference(bounds[a], bounds[b], seed), p_holm=1.0)
        for a, b in (combinations(verdicts, 2) if pairs is None else pairs)
    ]
    return [test._replace(p_holm=p) for test, p in zip(tests, holm([test.p for test in tests]), strict=True)]


def holm(p_values: Sequence[float] | np.ndarray) -> list[float]:
    """Return the p-values adjusted for looking at all of them (Holm's step-down procedure), in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Raises:
        UserError: a value is not a probability.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    values = np.asarray(p_values, dtype=float)
    require(bool(np.all((values >= 0) & (values <= 1))), f"p-values lie between 0 and 1, not {list(p_values)}")
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()


def _least_difference(a: Bounds, b: Bounds, seed: int) -> tuple[int, int, Interval, float]:
    """Decide the open examples so that the difference is least; its interval reaches over all decisions."""
    against_a, for_a = (a.least, b.most), (a.most, b.least)
    lowest = paired_difference(*against_a, seed=seed)
    decided = np.array_equal(a.least, a.most) and np.array_equal(b.least, b.most)
    highest = lowest if decided else paired_difference(*for_a, seed=seed)
    if lowest.value <= 0 <= highest.value and lowest.value < highest.value:
        only_a, only_b = discordant(*against_a)[0], discordant(*for_a)[1]
        return only_a, only_b, Interval(0.0, lowest.low, highest.high), 1.0
    least, value = (against_a, lowest.value) if lowest.value >= 0 else (for_a, highest.value)
    only_a, only_b, _ = discordant(*least)
    return only_a, only_b, Interval(value, lowest.low, highest.high), mcnemar_exact(*least)
