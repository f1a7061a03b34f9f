"""What a model of shards says where it can be known."""

import numpy as np
import pytest

from benchmarks.shards import Fleet, longest


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("machines", [1, 2, 5, 10])
def test_equal_batches_are_divided_evenly(machines: int) -> None:
    slowest, mean = longest(np.full(10, 3.0), machines, Fleet(start=2.0), draw())
    assert slowest == mean == 2.0 + 30.0 / machines


def test_the_dearest_shard_is_the_one_that_all_wait_for() -> None:
    slowest, mean = longest(np.array([1.0, 1.0, 7.0, 1.0]), 2, Fleet(start=1.0), draw())
    assert (slowest, mean) == (9.0, 6.0)


def test_latency_is_of_every_batch_and_a_lost_shard_starts_again() -> None:
    assert longest(np.ones(4), 2, Fleet(start=1.0, latency=0.5), draw()) == (4.0, 4.0)
    assert longest(np.ones(4), 2, Fleet(start=1.0, latency=0.5, lost=1.0), draw()) == (5.5, 5.5)
