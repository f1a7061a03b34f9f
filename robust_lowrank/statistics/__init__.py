"""Accuracies have statistics: intervals, paired tests, power, and spread over seeds."""

from robust_lowrank.statistics.correlation import (
    LEAST_PAIRS,
    PartialCorrelation,
    RankCorrelation,
    partial_rank_correlation,
    rank_correlation,
)
from robust_lowrank.statistics.intervals import Interval, bounded, clopper_pearson, wilson
from robust_lowrank.statistics.paired import mcnemar_exact, paired_difference
from robust_lowrank.statistics.pairwise import Bounds, Comparison, holm, pairwise
from robust_lowrank.statistics.power import detectable, examples_to_see, mcnemar_power
from robust_lowrank.statistics.sampling import most_in_population
from robust_lowrank.statistics.seeds import SeedDifference, SeedSpread, over_seeds, seed_difference

__all__ = [
    "LEAST_PAIRS",
    "Bounds",
    "Comparison",
    "Interval",
    "PartialCorrelation",
    "RankCorrelation",
    "SeedDifference",
    "SeedSpread",
    "bounded",
    "clopper_pearson",
    "detectable",
    "examples_to_see",
    "holm",
    "mcnemar_exact",
    "mcnemar_power",
    "most_in_population",
    "over_seeds",
    "paired_difference",
    "pairwise",
    "partial_rank_correlation",
    "rank_correlation",
    "seed_difference",
    "wilson",
]
