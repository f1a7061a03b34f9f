"""A random sample without replacement bounds what the population that it was drawn from holds."""

from robust_lowrank.statistics.intervals import require, require_confidence


def most_in_population(found: int, sample: int, population: int, confidence: float = 0.95) -> int:
    """Return the upper limit of how many of a population have a property that `found` of a sample have, the sample's included.

    The limit is exact and one-sided: the largest number with which a sample has `found` or fewer with a probability of more
    than 1 - confidence (hypergeometric). Whatever the true number, at least a part `confidence` of all samples gives a limit
    that is not below it. An empty sample tells nothing: the limit is the population.

    Example:
        >>> most_in_population(0, 30, 200), most_in_population(1, 30, 200), most_in_population(0, 200, 200)
        (17, 28, 0)

    Raises:
        UserError: the counts are not part of one another, or `confidence` is not within (0, 1).
    """
    within = 0 <= found <= sample <= population
    require(within, f"a sample needs 0 <= found <= sample <= population, not {found}, {sample} and {population}")
    require_confidence(confidence)
    if sample == 0:
        return population
    import numpy as np
    from scipy.stats import hypergeom

    numbers = np.arange(found, population - (sample - found) + 1)
    return int(numbers[hypergeom.cdf(found, population, numbers, sample) > 1 - confidence].max())
