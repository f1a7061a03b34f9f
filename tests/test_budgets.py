"""Options are chosen within a limit: held against every choice that there is."""

import itertools
import random

import pytest

from robust_lowrank.budgets import Options, choose, fit


def layers_at_random(draw: random.Random, *, whole: bool) -> list[Options]:
    """Return layers of few options, whose costs jump, fall and repeat as measured ones do."""
    sizes = [draw.randint(1, 5) for _ in range(draw.randint(1, 5))]
    cost = (lambda: draw.randint(1, 12)) if whole else (lambda: draw.uniform(0.5, 12))
    return [Options([cost() for _ in range(size)], [draw.choice([0.1, 0.4, 0.5, 0.9, 1.0]) for _ in range(size)]) for size in sizes]


def best_of_all(layers: list[Options], limit: float) -> float | None:
    """Return the most that a choice within the limit is worth, by trying every one."""
    worth = [
        sum(layer.values[index] for layer, index in zip(layers, chosen, strict=True))
        for chosen in itertools.product(*(range(len(layer.costs)) for layer in layers))
        if sum(layer.costs[index] for layer, index in zip(layers, chosen, strict=True)) <= limit
    ]
    return max(worth, default=None)


@pytest.mark.parametrize("seed", range(60))
def test_whole_costs_are_shared_out_as_well_as_can_be(seed: int) -> None:
    draw = random.Random(seed)
    layers, limit = layers_at_random(draw, whole=True), draw.choice([5, 8, 10, 16, 20, 25, 40])  # divisors of the ticks
    chosen = choose(layers, limit)
    if chosen is None:
        assert best_of_all(layers, limit) is None
        return
    assert sum(layer.costs[index] for layer, index in zip(layers, chosen, strict=True)) <= limit
    found = sum(layer.values[index] for layer, index in zip(layers, chosen, strict=True))
    assert found == pytest.approx(best_of_all(layers, limit), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_other_costs_stay_within_the_limit_and_lose_no_more_than_their_rounding(seed: int) -> None:
    draw = random.Random(seed)
    layers, limit = layers_at_random(draw, whole=False), draw.uniform(3, 40)
    chosen, least = choose(layers, limit), best_of_all(layers, limit * (1 - len(layers) / 4000))
    if chosen is None:
        assert least is None
        return
    assert sum(layer.costs[index] for layer, index in zip(layers, chosen, strict=True)) <= limit * (1 + 1e-9)
    assert sum(layer.values[index] for layer, index in zip(layers, chosen, strict=True)) >= (least or 0) - 1e-12


def test_linear_costs_are_filled_like_water() -> None:
    steep, flat = ([1 - share**r for r in range(1, 20)] for share in (0.3, 0.9))
    layers = [Options(range(1, 20), steep), Options(range(1, 20), flat)]
    one, other = choose(layers, 20) or (0, 0)
    level = min(steep[one] - steep[one - 1], flat[other] - flat[other - 1])
    assert one + other + 2 == 20
    assert level >= max(steep[one + 1] - steep[one], flat[other + 1] - flat[other])  # what is left out is worth less


@pytest.mark.parametrize("limit", [6.0, 9.0, 14.0])
def test_a_whole_that_costs_other_than_its_layers_is_measured(limit: float) -> None:
    draw = random.Random(3)
    layers = [Options([*(0.01 * (r + 1) for r in range(100)), 1.2], [*(r / 100 for r in range(100)), 1.0]) for _ in range(5)]
    tried: list[float] = []

    def measure(chosen: list[int]) -> float:
        cost = sum(layer.costs[index] for layer, index in zip(layers, chosen, strict=True))
        tried.append(4 + 2.2 * cost + 0.1 * cost**2 + draw.uniform(-0.02, 0.02))  # other parts, colder memory, noise
        return tried[-1]

    found = fit(layers, measure, limit=limit, whole=4 + 2.2 * 6 + 0.1 * 36)
    assert 0.96 * limit <= found.cost <= limit
    assert len(tried) <= 7 and found.cost in tried


def test_a_limit_out_of_reach_returns_the_cheapest_choice() -> None:
    layers = [Options([2, 1, 1, 5], [0.5, 0.1, 0.2, 1.0]), Options([3], [1.0])]
    found = fit(layers, lambda chosen: 10 + sum(chosen), limit=7, whole=20)
    assert found == ([2, 0], 12)
