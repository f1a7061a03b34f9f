"""The power of the exact McNemar test tells how many examples a comparison takes."""

import numpy as np

from robust_lowrank.statistics.intervals import require

_TAIL = 1e-12  # probability of the numbers of discordant examples left out of a sum


def mcnemar_power(n: int, difference: float, *, discordance: float, alpha: float = 0.05) -> float:
    """Return the probability that the exact McNemar test on `n` examples finds a difference of accuracies, p < `alpha`.

    Example:
        >>> mcnemar_power(1000, 0.04, discordance=0.15)
        0.8953...

    Args:
        n: examples on which both networks are evaluated.
        difference: of the two accuracies, a fraction.
        discordance: share of the examples on which one network is right and the other wrong; at least the difference.
        alpha: level of the two-sided test; divide it by the number of comparisons made together.

    Raises:
        UserError: a number lies outside of its range.

    Source: the exact unconditional power, Duffy 1984; through scipy.
    """
    require(n >= 1, f"a test needs at least one example, not {n}")
    require(0 < alpha < 1, f"alpha lies between 0 and 1, not {alpha}")
    require(0 <= discordance <= 1, f"a discordance is a share of the examples, not {discordance}")
    require(abs(difference) <= discordance, f"a difference of {difference} needs as large a discordance, not {discordance}")
    if discordance == 0:
        return 0.0
    from scipy.stats import binom

    first, last = int(binom.ppf(_TAIL, n, discordance)), int(binom.isf(_TAIL, n, discordance))
    differing = np.arange(max(first, 1), last + 1)
    critical = binom.ppf(alpha / 2, differing, 0.5) - 1  # the largest number with a tail below alpha / 2; -1 without any
    better = (1 + abs(difference) / discordance) / 2
    rejected = binom.cdf(critical, differing, better) + binom.sf(differing - critical - 1, differing, better)
    return float(np.sum(binom.pmf(differing, n, discordance) * rejected))


def examples_to_see(difference: float, *, discordance: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Return how many examples the exact McNemar test needs to find a difference of accuracies with probability `power`.

    Fewer examples suffice where the networks disagree less: how often they do is measured, or taken from a similar pair.

    Example:
        >>> examples_to_see(0.01, discordance=0.1)
        8032

    Args:
        difference: of the two accuracies, a fraction; 0.01 is a point.
        discordance: share of the examples on which one network is right and the other wrong; no less than the difference.
        power: the probability to find the difference.
        alpha: level of the two-sided test; divide it by the number of comparisons made together.

    Raises:
        UserError: a number lies outside of its range.
    """
    require(0 < abs(difference) <= 1, f"a difference of accuracies that can be seen lies between 0 and 1, not {difference}")
    require(0 < power < 1, f"power is a probability between 0 and 1, not {power}")
    discordance = max(discordance, abs(difference))

    def enough(n: int) -> bool:
        return mcnemar_power(n, difference, discordance=discordance, alpha=alpha) >= power

    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable(n: int, *, discordance: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest difference of accuracies that the exact McNemar test on `n` examples finds with probability `power`.

    Example:
        >>> detectable(1000, discordance=0.1)
        0.0287...

    Args:
        n: examples on which both networks are evaluated.
        discordance, power, alpha: as in `examples_to_see`.

    Raises:
        UserError: a number lies outside of its range, or with so few examples no difference can be found.
    """
    require(0 < power < 1, f"power is a probability between 0 and 1, not {power}")

    def seen(difference: float) -> bool:
        return mcnemar_power(n, difference, discordance=max(discordance, difference), alpha=alpha) >= power

    require(seen(1.0), f"{n} examples are too few: not even 100 points of difference reach p < {alpha:.2g} on them")
    low, high = 0.0, 1.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high
