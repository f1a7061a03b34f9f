"""Methods spread over seeds, and are compared over them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robust_lowrank.statistics.intervals import Interval, require, require_confidence

_SAME = 1e-12  # differences of accuracies below it are rounding


class SeedSpread(NamedTuple):
    """The mean over training runs with different seeds; a single seed says nothing of the spread, which is then None."""

    mean: float
    seeds: int
    deviation: float | None  # sample standard deviation, over seeds - 1
    interval: Interval | None  # t-interval of the mean

    def __str__(self) -> str:
        if self.deviation is None or self.interval is None:
            return f"{self.mean:.4g} (one seed: no spread is known)"
        return f"{self.mean:.4g} ± {self.deviation:.2g} over {self.seeds} seeds [{self.interval.low:.4g}, {self.interval.high:.4g}]"


class SeedDifference(NamedTuple):
    """Two methods a and b, each over several seeds."""

    difference: Interval  # mean of a less mean of b, with its t-interval
    p: float  # two-sided
    paired: bool  # whether a run of a met the run of b of the same seed


def over_seeds(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> SeedSpread:
    """Return mean, standard deviation and t-interval of a quantity over runs that differ in their seed alone.

    The interval takes the runs as draws from a normal distribution; with two or three seeds it is wide, as it should be.

    Example:
        >>> print(over_seeds([0.71, 0.73, 0.72]))
        0.72 ± 0.01 over 3 seeds [0.6952, 0.7448]
        >>> print(over_seeds([0.71]))
        0.71 (one seed: no spread is known)

    Raises:
        UserError: there is no value, one is not finite, or `confidence` is not within (0, 1).

    Source: Student 1908, through scipy.
    """
    runs = np.asarray(values, dtype=float)
    sound = runs.ndim == 1 and runs.size > 0 and bool(np.isfinite(runs).all())
    require(sound, f"a spread over seeds needs one finite number a seed, not {runs.tolist()}")
    require_confidence(confidence)
    mean = float(runs.mean())
    if runs.size == 1:
        return SeedSpread(mean, 1, None, None)
    from scipy.stats import t

    deviation = float(runs.std(ddof=1))
    half = float(t.ppf((1 + confidence) / 2, runs.size - 1)) * deviation / math.sqrt(runs.size)
    return SeedSpread(mean, runs.size, deviation, Interval(mean, mean - half, mean + half))


def seed_difference(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, paired: bool, confidence: float = 0.95
) -> SeedDifference:
    """Return the difference of two methods' means over seeds, with the p-value of a t-test: are the two the same on average?

    Paired where both were run with the same seeds, in the same order: a paired t-test, which takes the differences within a seed as
    draws from a normal distribution. Otherwise Welch's t-test, which takes the runs of each method as such draws, of any variances.
    Where nothing varies between seeds, neither can be made: p is 1.

    Example:
        >>> found = seed_difference([0.71, 0.73, 0.72], [0.66, 0.67, 0.67], paired=True)
        >>> round(found.difference.value, 3), round(found.p, 4)
        (0.053, 0.0039)

    Args:
        a: one number a seed.
        b: likewise; if paired as many.
        paired: whether the values of one place have one seed.
        confidence: of the interval.

    Raises:
        UserError: a method has fewer than two seeds, a value is not finite, paired methods have different numbers of seeds, or
            `confidence` is not within (0, 1).

    Source: Student 1908; Welch 1947, with the degrees of freedom of Satterthwaite 1946.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    sound = all(each.ndim == 1 and each.size > 1 and bool(np.isfinite(each).all()) for each in (x, y))
    require(sound, f"a test over seeds needs one finite number a seed and two seeds a method, not {x.tolist()} and {y.tolist()}")
    require(not paired or x.size == y.size, f"a paired test needs the same seeds of both methods, not {x.size} and {y.size}")
    require_confidence(confidence)
    mean = float(x.mean() - y.mean())
    samples = [x - y] if paired else [x, y]
    if max(map(np.ptp, samples)) < _SAME:
        return SeedDifference(Interval(mean, mean, mean), 1.0, paired)
    squares = [float(each.var(ddof=1)) / each.size for each in samples]  # of the standard errors
    error = math.sqrt(sum(squares))
    freedom = sum(squares) ** 2 / sum(square**2 / (each.size - 1) for square, each in zip(squares, samples, strict=True))
    from scipy.stats import t

    half = float(t.ppf((1 + confidence) / 2, freedom)) * error
    return SeedDifference(Interval(mean, mean - half, mean + half), float(2 * t.sf(abs(mean) / error, freedom)), paired)
