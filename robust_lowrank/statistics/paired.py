"""Two networks are compared on the same examples by an exact McNemar test and a bootstrap."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from robust_lowrank.statistics.intervals import Interval, require, require_confidence

_RESAMPLES = 10_000
_CACHED = 2**14  # tests that are remembered: a report and its summary ask for the same ones


def mcnemar_exact(a_correct: Sequence[bool] | np.ndarray, b_correct: Sequence[bool] | np.ndarray) -> float:
    """Return the two-sided p-value of the exact McNemar test: are a and b right equally often on the same examples?

    Only the examples on which they differ count; without any, p is 1.

    Example:
        >>> mcnemar_exact([True] * 8 + [False], [False] * 7 + [True] * 2)
        0.0703125

    Raises:
        UserError: the two are not verdicts on the same examples.

    Source: McNemar 1947 in its exact (binomial) form, through scipy.
    """
    only_a, only_b, _ = discordant(a_correct, b_correct)
    return _mcnemar(only_a, only_b)


@lru_cache(_CACHED)
def _mcnemar(only_a: int, only_b: int) -> float:
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


def paired_difference(
    a_correct: Sequence[bool] | np.ndarray, b_correct: Sequence[bool] | np.ndarray, *, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Return the accuracy of a less that of b on the same examples, with its paired bootstrap interval.

    The interval is the percentile interval of 10,000 resamples of whole examples, so what the two have in common stays in common.
    Two imaginary examples are added before resampling, one that only a gets right and one that only b does: otherwise two networks
    that happen to agree everywhere would be said to be equal for certain. The same verdicts and seed give the same interval.

    Example:
        >>> a, b = [True] * 80 + [False] * 20, [True] * 70 + [False] * 30
        >>> paired_difference(a, b)
        Interval(value=0.1, low=0.039..., high=0.166...)

    Raises:
        UserError: the two are not verdicts on the same examples, or `confidence` is not within (0, 1).

    Source: Efron and Tibshirani 1993, chapter 13; the imaginary examples as in the normal interval of Bonett and Price 2012.
    """
    require_confidence(confidence)
    counts = discordant(a_correct, b_correct)
    return Interval((counts[0] - counts[1]) / counts[2], *_bootstrap(*counts, seed, confidence))


@lru_cache(_CACHED)
def _bootstrap(only_a: int, only_b: int, total: int, seed: int, confidence: float) -> tuple[float, float]:
    size = total + 2
    shares = np.array([only_a + 1, only_b + 1, total - only_a - only_b]) / size
    drawn = np.random.default_rng(seed).multinomial(size, shares, size=_RESAMPLES)
    differences = (drawn[:, 0] - drawn[:, 1]) / size
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def discordant(a_correct: Sequence[bool] | np.ndarray, b_correct: Sequence[bool] | np.ndarray) -> tuple[int, int, int]:
    """Return how many examples a alone gets right, how many b alone, and how many there are.

    Raises:
        UserError: the two are not verdicts on the same examples.
    """
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    same = a.shape == b.shape and a.ndim == 1 and a.size > 0
    require(same, f"a paired test needs two lists over the same examples, not shapes {a.shape} and {b.shape}")
    return int(np.sum(a & ~b)), int(np.sum(~a & b)), a.size
