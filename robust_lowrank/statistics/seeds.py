"""Methods spread over seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from robust_lowrank.statistics.intervals import Interval, require, require_confidence


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
