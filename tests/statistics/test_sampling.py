"""The limit that a sample gives is held against all samples that there are."""

from itertools import combinations
from math import comb

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.statistics import most_in_population


def chance_of_at_most(found: int, sample: int, population: int, number: int) -> float:
    """Return by counting how probable it is that a sample has so many or fewer of `number` in the population."""
    hits = [comb(number, k) * comb(population - number, sample - k) for k in range(found + 1)]
    return sum(hits) / comb(population, sample)


@pytest.mark.parametrize("population", [1, 2, 7, 12])
@pytest.mark.parametrize("confidence", [0.55, 0.93, 0.95])
def test_the_limit_is_the_largest_number_that_the_sample_does_not_speak_against(population, confidence):
    for sample in range(population + 1):
        for found in range(sample + 1):
            possible = range(found, population - sample + found + 1)
            expected = max(k for k in possible if chance_of_at_most(found, sample, population, k) > 1 - confidence)
            assert most_in_population(found, sample, population, confidence) == expected


@pytest.mark.parametrize("number", range(10))
def test_of_all_samples_at_least_so_many_give_a_limit_that_holds(number):
    population, sample = 9, 4
    samples = list(combinations(range(population), sample))
    covered = [most_in_population(sum(row < number for row in drawn), sample, population, 0.9) >= number for drawn in samples]
    assert sum(covered) >= 0.9 * len(samples)


def test_the_ends():
    assert most_in_population(0, 0, 50) == 50
    assert most_in_population(3, 50, 50) == 3
    assert most_in_population(0, 0, 0) == 0
    assert most_in_population(0, 100, 10_000) == 293  # about 3 % of the population: the rule of three
    assert chance_of_at_most(0, 100, 10_000, 293) > 0.05 > chance_of_at_most(0, 100, 10_000, 294)


@pytest.mark.parametrize("counts", [(-1, 2, 3), (3, 2, 3), (0, 4, 3)])
def test_counts_that_are_not_part_of_one_another_are_refused(counts):
    with pytest.raises(UserError, match="a sample needs"):
        most_in_population(*counts)
    with pytest.raises(UserError, match="confidence"):
        most_in_population(0, 1, 2, 1.0)
