"""Rank correlations over a few networks come with the intervals that so few allow."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robust_lowrank.statistics.intervals import Interval, require, require_confidence

LEAST_PAIRS = 5
_RESAMPLES = 2_000
_EXPLAINED = 1e-6  # of ranks that others explain, rounding leaves less than this part


class RankCorrelation(NamedTuple):
    """Spearman's and Kendall's coefficients of `pairs` pairs, with percentile bootstrap intervals over the pairs.

    Pairs in perfect order stay so in every resample: their interval has no width, and says nothing. `p` does not suffer from that.
    """

    spearman: Interval
    kendall: Interval
    p: float  # of Kendall's test that x and y are independent; exact for few pairs without ties
    pairs: int


def rank_correlation(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, *, seed: int = 0, confidence: float = 0.95
) -> RankCorrelation | None:
    """Return how far y rises with x, whatever the shape of the relation; None where that is not defined or not to be known.

    It is not defined where x or y is the same everywhere, and not to be known from fewer than 5 pairs. Pairs with a value that is
    not a number are left out; infinite values take part, as the largest. Resamples in which x or y is constant are left out of the
    interval. The same numbers and seed give the same interval.

    Example:
        >>> rank_correlation([1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5]).spearman.value
        0.828...

    Raises:
        UserError: x and y have different lengths, or `confidence` is not within (0, 1).

    Source: Spearman 1904; Kendall 1945 (τ-b, with ties); Efron and Tibshirani 1993, chapter 13; coefficients through scipy.
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    equal = a.shape == b.shape and a.ndim == 1
    require(equal, f"a correlation needs as many values of one quantity as of the other, not {a.shape} and {b.shape}")
    require_confidence(confidence)
    defined = ~(np.isnan(a) | np.isnan(b))
    a, b = a[defined], b[defined]
    if len(a) < LEAST_PAIRS or len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return None
    from scipy.stats import kendalltau, rankdata, spearmanr

    a, b = rankdata(a), rankdata(b)
    drawn = np.random.default_rng(seed).integers(0, len(a), size=(_RESAMPLES, len(a)))
    spearman = _pearson(rankdata(a[drawn], axis=1), rankdata(b[drawn], axis=1))
    kendall = np.concatenate([_kendall(a[part], b[part]) for part in np.array_split(drawn, 20)])
    rho, tau = spearmanr(a, b).statistic, kendalltau(a, b)  # pyright: ignore[reportAttributeAccessIssue]
    return RankCorrelation(
        _interval(float(rho), spearman, confidence),
        _interval(float(tau.statistic), kendall, confidence),  # pyright: ignore[reportAttributeAccessIssue]
        float(tau.pvalue),  # pyright: ignore[reportAttributeAccessIssue]
        len(a),
    )


class PartialCorrelation(NamedTuple):
    """Spearman's coefficient of what of x and y the ranks of other quantities do not explain, with its bootstrap interval."""

    spearman: Interval
    p: float  # of the t-test that there is no such relation
    points: int


def partial_rank_correlation(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    given: Sequence[Sequence[float] | np.ndarray],
    *,
    seed: int = 0,
    confidence: float = 0.95,
) -> PartialCorrelation | None:
    """Return how far y rises with x among points that are equal in all of `given`; None where that cannot be known.

    Ranks of x and of y are regressed on the ranks of each of `given`; what is left of both is correlated. It cannot be known
    from fewer than 5 points more than there are quantities given, nor where these explain all of x or of y. Points with a value
    that is not a number are left out; infinite values take part, as the largest.

    Example:
        >>> size, robust, cond = [1, 2, 3, 4, 5, 6, 7, 8], [3, 2, 5, 4, 7, 6, 9, 8], [2, 3, 1, 5, 4, 7, 6, 8]
        >>> rank_correlation(cond, robust).spearman.value
        0.642...
        >>> partial_rank_correlation(cond, robust, [size]).spearman.value
        -0.765...

    Raises:
        UserError: the quantities have different lengths, or `confidence` is not within (0, 1).

    Source: Yule 1907 for the partial correlation, of ranks; the t-test has two degrees of freedom less than points, and one less
    for each quantity given. Interval: percentile bootstrap over the points with their ranks among all.
    """
    columns = [np.asarray(values, dtype=float) for values in (x, y, *given)]
    equal = all(column.shape == columns[0].shape and column.ndim == 1 for column in columns)
    require(equal, f"a correlation needs as many values of each quantity, not {', '.join(str(c.shape) for c in columns)}")
    require_confidence(confidence)
    values = np.stack(columns)
    values = values[:, ~np.isnan(values).any(axis=0)]
    points = values.shape[1]
    if points < LEAST_PAIRS + len(given):
        return None
    from scipy.stats import rankdata
    from scipy.stats import t as student

    ranks = rankdata(values, axis=1)
    value = _partial(ranks[None])[0]
    if not np.isfinite(value):
        return None
    drawn = np.random.default_rng(seed).integers(0, points, size=(_RESAMPLES, points))
    resampled = _partial(ranks[:, drawn].swapaxes(0, 1))
    degrees = points - 2 - len(given)
    with np.errstate(divide="ignore"):
        statistic = abs(value) * np.sqrt(degrees / max(1 - value**2, 0.0))
    return PartialCorrelation(_interval(float(value), resampled, confidence), float(2 * student.sf(statistic, degrees)), points)


def _partial(ranks: np.ndarray) -> np.ndarray:
    """Return the correlation of the first two of the rows of each sample given its other rows; NaN where nothing is left of one."""
    centred = ranks - ranks.mean(axis=2, keepdims=True)
    pair, others = centred[:, :2], centred[:, 2:]
    left = pair - pair @ np.linalg.pinv(others, rcond=_EXPLAINED) @ others
    norms, before = (np.sqrt((rows**2).sum(axis=2)) for rows in (left, pair))
    known = (norms > _EXPLAINED * before).all(axis=1)
    return np.where(known, _ratio((left[:, 0] * left[:, 1]).sum(axis=1), norms.prod(axis=1)), np.nan)


def _pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the correlation of each row of a with that of b; NaN where one is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    return _ratio((a * b).sum(axis=1), np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1)))


def _kendall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Kendall's τ-b of each row of a with that of b; NaN where one is constant."""
    signs_a, signs_b = (np.sign(values[:, :, None] - values[:, None, :]) for values in (a, b))
    size = np.sqrt((signs_a**2).sum(axis=(1, 2)) * (signs_b**2).sum(axis=(1, 2)))
    return _ratio((signs_a * signs_b).sum(axis=(1, 2)), size)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _interval(value: float, resampled: np.ndarray, confidence: float) -> Interval:
    finite = resampled[np.isfinite(resampled)]
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(finite) else (-1.0, 1.0)
    return Interval(value, float(low), float(high))
