"""Intervals of one accuracy are Wilson's, Clopper–Pearson's, or bounds with undecided examples."""

from typing import Literal, NamedTuple

from robust_lowrank.errors import UserError


class Interval(NamedTuple):
    """A fraction, or a difference of two, with its confidence interval; `float(interval)` is the fraction.

    Example:
        >>> print(Interval(0.9, 0.826, 0.945))
        90.0 % [82.6, 94.5]
    """

    value: float
    low: float
    high: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


def wilson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Return `correct / total` with its Wilson score interval, which stays within [0, 1] and is sound at 0 and at 1.

    Example:
        >>> wilson(90, 100)
        Interval(value=0.9, low=0.8256..., high=0.9447...)

    Raises:
        UserError: there is no example, `correct` is not within 0..total, or `confidence` not within (0, 1).

    Source: Wilson 1927, through scipy.
    """
    return _binomial(correct, total, confidence, "wilson")


def clopper_pearson(correct: int, total: int, confidence: float = 0.95) -> Interval:
    """Return `correct / total` with its Clopper–Pearson interval, which is exact: it covers at least as often as it says.

    The price is width: on average it is wider than Wilson's.

    Example:
        >>> clopper_pearson(90, 100)
        Interval(value=0.9, low=0.8237..., high=0.9509...)

    Raises:
        UserError: as `wilson`.

    Source: Clopper and Pearson 1934, through scipy.
    """
    return _binomial(correct, total, confidence, "exact")


def bounded(correct: int, unresolved: int, total: int, confidence: float = 0.95) -> Interval:
    """Return what is known of an accuracy when the budget ran out before `unresolved` of the examples were decided.

    `low` is the lower Wilson limit with all of them counted as broken, `high` the upper one with all counted as robust: the
    interval covers however they would have turned out. `value` is `correct / total`, the least that the accuracy can be.

    Example:
        >>> bounded(720, 35, 1000)
        Interval(value=0.72, low=0.6914..., high=0.7806...)

    Raises:
        UserError: the counts are negative or exceed the total, there is no example, or `confidence` is not within (0, 1).
    """
    require(0 <= unresolved <= total - correct, f"{correct} correct and {unresolved} unresolved examples are not part of {total}")
    low, high = wilson(correct, total, confidence), wilson(correct + unresolved, total, confidence)
    return Interval(low.value, low.low, high.high)


def _binomial(correct: int, total: int, confidence: float, method: Literal["wilson", "exact"]) -> Interval:
    within = 0 <= correct <= total and total > 0
    require(within, f"an accuracy needs 0 <= correct <= total and total > 0, not {correct} of {total}")
    require_confidence(confidence)
    from scipy.stats import binomtest

    low, high = binomtest(correct, total).proportion_ci(confidence, method=method)
    return Interval(correct / total, float(low), float(high))


def require(condition: bool, message: str) -> None:
    """Raise `UserError` unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_confidence(confidence: float) -> None:
    """Raise `UserError` unless the confidence is within (0, 1)."""
    require(0 < confidence < 1, f"confidence is a fraction between 0 and 1, not {confidence}")
