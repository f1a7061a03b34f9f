"""Intervals and tests for accuracies: Wilson, exact McNemar, Holm."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robust_lowrank.errors import UserError


class Interval(NamedTuple):
    """A fraction with its confidence interval; `float(interval)` is the fraction."""

    value: float
    low: float
    high: float

    def __float__(self) -> float:
        return self.value


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Return `correct / total` with its Wilson score interval, which stays within [0, 1] and is sound at 0 and at 1.

    Example:
        >>> wilson(90, 100)
        Interval(value=0.9, low=0.8256..., high=0.9447...)

    Raises:
        UserError: there is no example, `correct` is not within 0..total, or `confidence` not within (0, 1).

    Source: Wilson 1927, through scipy.
    """
    if not 0 <= correct <= total or total == 0:
        raise UserError(f"an accuracy needs 0 <= correct <= total and total > 0, not {correct} of {total}")
    if not 0 < confidence < 1:
        raise UserError(f"confidence is a fraction between 0 and 1, not {confidence}")
    from scipy.stats import binomtest

    low, high = binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return Interval(correct / total, float(low), float(high))


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
    a, b = np.asarray(a_correct, dtype=bool), np.asarray(b_correct, dtype=bool)
    if a.shape != b.shape or a.ndim != 1 or a.size == 0:
        raise UserError(f"a paired test needs two lists over the same examples, not shapes {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(~a & b))
    if only_a + only_b == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue)


def holm(p_values: Sequence[float] | np.ndarray) -> list[float]:
    """Return the p-values adjusted for looking at all of them (Holm's step-down procedure), in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Raises:
        UserError: a value is not a probability.

    Source: Holm 1979, through statsmodels.
    """
    values = np.asarray(p_values, dtype=float)
    if not np.all((values >= 0) & (values <= 1)):
        raise UserError(f"p-values lie between 0 and 1, not {list(p_values)}")
    if values.size == 0:
        return []
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(values, method="holm")[1], dtype=float).tolist()
