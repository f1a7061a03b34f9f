import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.errors import UserError
from robust_lowrank.statistics import Interval, holm, mcnemar_exact, wilson


def score_interval(correct: int, total: int, z: float) -> tuple[float, float]:
    p, centre = correct / total, (correct + z * z / 2) / (total + z * z)
    half = z / (total + z * z) * math.sqrt(p * (1 - p) * total + z * z / 4)
    return centre - half, centre + half


@given(st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_is_the_score_interval(counts):
    correct, total = counts
    interval = wilson(correct, total)
    low, high = score_interval(correct, total, 1.959963984540054)
    assert interval.value == float(interval) == correct / total
    assert interval.low == pytest.approx(max(low, 0), abs=1e-12)
    assert interval.high == pytest.approx(min(high, 1), abs=1e-12)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_wilson_takes_another_confidence():
    assert wilson(45, 100, confidence=0.99) == pytest.approx(Interval(0.45, *score_interval(45, 100, 2.5758293035489004)))


@pytest.mark.parametrize(("correct", "total", "confidence"), [(1, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (3, 5, 1.0)])
def test_wilson_refuses_what_is_no_accuracy(correct, total, confidence):
    with pytest.raises(UserError):
        wilson(correct, total, confidence)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_twice_the_smaller_binomial_tail(pairs):
    a, b = zip(*pairs, strict=True)
    only_a = sum(x and not y for x, y in pairs)
    only_b = sum(y and not x for x, y in pairs)
    n = only_a + only_b
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
    assert mcnemar_exact(a, b) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar_exact(b, a) == mcnemar_exact(a, b)


def test_mcnemar_looks_at_discordant_pairs_only():
    a, b = np.array([True] * 8 + [False]), np.array([False] * 7 + [True] * 2)
    agreeing = np.ones(500, dtype=bool)
    assert mcnemar_exact(np.append(a, agreeing), np.append(b, agreeing)) == mcnemar_exact(a, b) == 0.0703125


def test_mcnemar_needs_pairs():
    with pytest.raises(UserError, match="same examples"):
        mcnemar_exact([True, False], [True])


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.2]) == pytest.approx([0.9, 0.4])
    assert holm([]) == []


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(UserError, match="between 0 and 1"):
        holm([0.1, float("nan")])
