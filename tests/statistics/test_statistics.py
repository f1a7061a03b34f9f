import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from robust_lowrank.errors import UserError
from robust_lowrank.statistics import (
    Bounds,
    Interval,
    bounded,
    clopper_pearson,
    detectable,
    examples_to_see,
    holm,
    mcnemar_exact,
    mcnemar_power,
    over_seeds,
    paired_difference,
    pairwise,
    seed_difference,
    wilson,
)


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


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.5, 1.0]), min_size=1, max_size=30))
def test_holm_is_that_of_statsmodels(values):
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1], rel=1e-12)


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(UserError, match="between 0 and 1"):
        holm([0.1, float("nan")])


@pytest.mark.parametrize(("correct", "total"), [(0, 40), (40, 40), (33, 40), (700, 1000)])
def test_clopper_pearson_is_exact(correct, total):
    interval = clopper_pearson(correct, total)
    assert interval[1:] == pytest.approx(proportion_confint(correct, total, method="beta"), abs=1e-9)
    assert interval.low == 0 if correct == 0 else stats.binom.sf(correct - 1, total, interval.low) == pytest.approx(0.025)
    assert interval.high == 1 if correct == total else stats.binom.cdf(correct, total, interval.high) == pytest.approx(0.025)


def test_bounds_cover_every_way_to_decide_what_is_open():
    interval = bounded(70, 10, 100)
    assert interval.value == 0.7
    for robust in range(11):
        decided = wilson(70 + robust, 100)
        assert interval.low <= decided.low and decided.high <= interval.high
    assert bounded(70, 0, 100) == wilson(70, 100)


@pytest.mark.parametrize(("correct", "unresolved", "total"), [(70, 31, 100), (70, -1, 100), (0, 0, 0), (-1, 1, 10)])
def test_bounds_need_counts_that_fit(correct, unresolved, total):
    with pytest.raises(UserError):
        bounded(correct, unresolved, total)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_the_difference_lies_in_its_interval_whichever_way_it_is_taken(pairs):
    a, b = zip(*pairs, strict=True)
    there, back = paired_difference(a, b), paired_difference(b, a)
    assert there.value == pytest.approx(np.mean(a) - np.mean(b))
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert there.low < 0 < there.high or mcnemar_exact(a, b) < 0.2
    step = 2 / (len(pairs) + 2)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=step)


def test_the_bootstrap_resamples_whole_examples():
    a, b = np.arange(400) < 300, (np.arange(400) >= 20) & (np.arange(400) < 280)
    interval = paired_difference(a, b)
    whole = stats.bootstrap(
        (a.astype(float), b.astype(float)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (interval.low, interval.high) == pytest.approx((whole.low, whole.high), abs=0.006)
    assert paired_difference(a, b) == interval
    assert paired_difference(a, b, seed=1) == pytest.approx(interval, abs=0.006)


@pytest.mark.parametrize(("n", "discordance", "difference"), [(100, 0.05, 0.0), (100, 0.2, 0.1), (500, 0.1, 0.02)])
def test_the_interval_of_a_difference_covers_it(n, discordance, difference):
    rng = np.random.default_rng(0)
    only_a = (discordance + difference) / 2
    tables = rng.multinomial(n, [only_a, discordance - only_a, 1 - discordance], size=300)
    hits = 0
    for first, second, _ in tables:
        example = np.arange(n)
        interval = paired_difference(example < first, (example >= first) & (example < first + second))
        hits += interval.low - 1e-9 <= difference <= interval.high + 1e-9
    assert hits / 300 > 0.92


def test_agreement_on_few_examples_proves_no_equality():
    same = np.ones(50, dtype=bool)
    interval = paired_difference(same, same)
    assert interval.value == 0
    assert interval.low < -0.03 and interval.high > 0.03


@pytest.mark.parametrize(("n", "difference", "discordance"), [(100, 0.1, 0.2), (300, 0.05, 0.1), (400, 0.0, 0.2), (50, 0.2, 0.2)])
def test_power_is_how_often_the_test_finds_the_difference(n, difference, discordance):
    rng = np.random.default_rng(0)
    only_a = (discordance + difference) / 2
    first, second, _ = rng.multinomial(n, [only_a, discordance - only_a, 1 - discordance], size=20_000).T
    p = np.minimum(1, 2 * stats.binom.cdf(np.minimum(first, second), first + second, 0.5))
    assert mcnemar_power(n, difference, discordance=discordance) == pytest.approx(np.mean(p < 0.05), abs=0.015)


@pytest.mark.parametrize(("difference", "discordance"), [(0.01, 0.1), (0.01, 0.3), (0.04, 0.2), (0.05, 0.1)])
def test_the_number_of_examples_is_a_little_above_that_of_the_normal_approximation(difference, discordance):
    needed = examples_to_see(difference, discordance=discordance)
    effect = difference / math.sqrt(discordance - difference**2)
    normal = NormalIndPower(ddof=0).solve_power(effect, alpha=0.05, power=0.8, ratio=0)
    assert normal < needed < 1.15 * normal
    assert mcnemar_power(needed, difference, discordance=discordance) >= 0.8
    assert mcnemar_power(needed - 1, difference, discordance=discordance) < 0.8


def test_what_is_detectable_takes_as_many_examples():
    difference = detectable(2000, discordance=0.15)
    assert examples_to_see(difference, discordance=0.15) <= 2000
    assert examples_to_see(difference - 0.001, discordance=0.15) > 2000
    assert detectable(2000, discordance=0.15, alpha=0.05 / 10) > difference


def test_six_examples_decide_at_the_least():
    assert detectable(6, discordance=0.0) > 0.9
    with pytest.raises(UserError, match="5 examples are too few"):
        detectable(5, discordance=0.0)


def test_power_needs_numbers_that_fit():
    with pytest.raises(UserError, match="as large a discordance"):
        mcnemar_power(100, 0.2, discordance=0.1)
    with pytest.raises(UserError, match="difference of accuracies"):
        examples_to_see(0.0, discordance=0.1)
    with pytest.raises(UserError, match="power"):
        examples_to_see(0.1, discordance=0.1, power=1.0)
    assert mcnemar_power(100, 0.0, discordance=0.0) == 0


def test_the_spread_over_seeds_is_that_of_students_t():
    values = [0.71, 0.73, 0.72, 0.75]
    spread = over_seeds(values)
    assert (spread.mean, spread.deviation) == pytest.approx((0.7275, np.std(values, ddof=1)))
    low, high = stats.t.interval(0.95, 3, loc=0.7275, scale=stats.sem(values))
    assert spread.interval == pytest.approx((0.7275, low, high))
    assert "over 4 seeds" in str(spread)


def test_one_seed_has_no_spread():
    spread = over_seeds([0.71])
    assert (spread.mean, spread.deviation, spread.interval) == (0.71, None, None)
    assert "one seed: no spread is known" in str(spread)


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [[0.5]]])
def test_a_spread_needs_numbers(values):
    with pytest.raises(UserError, match="one finite number a seed"):
        over_seeds(values)


def test_methods_are_compared_over_seeds_by_a_t_test():
    a, b = np.array([0.71, 0.74, 0.72]), np.array([0.68, 0.69, 0.70])
    found, known = seed_difference(a, b, paired=True), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(known.pvalue)
    assert found.difference == pytest.approx((np.mean(a - b), *known.confidence_interval(0.95)))
    b = np.array([0.6, 0.7])
    found, known = seed_difference(a, b, paired=False), stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(known.pvalue)
    assert found.difference == pytest.approx((a.mean() - b.mean(), *known.confidence_interval(0.95)))


def test_seeds_that_make_no_difference_support_none():
    assert seed_difference([0.7, 0.7], [0.6, 0.6], paired=False).p == 1
    assert seed_difference([0.7, 0.8], [0.6, 0.7], paired=True).p == 1
    assert 0 < seed_difference([0.7, 0.7], [0.6, 0.61], paired=False).p < 0.1  # one method varies, the other does not


@pytest.mark.parametrize(("a", "b", "paired"), [([0.7], [0.6, 0.7], False), ([0.7, 0.8, 0.9], [0.6, 0.7], True)])
def test_a_test_over_seeds_needs_seeds(a, b, paired):
    with pytest.raises(UserError, match=r"a (paired )?test (over seeds )?needs"):
        seed_difference(a, b, paired=paired)


def test_every_pair_is_compared_and_corrected_together():
    right = np.arange(100)
    verdicts = {"a": right < 80, "b": right < 70, "c": right < 69}
    found = pairwise(verdicts)
    assert [(c.a, c.b) for c in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [(c.only_a, c.only_b) for c in found] == [(10, 0), (11, 0), (1, 0)]
    assert [c.p for c in found] == [mcnemar_exact(verdicts[c.a], verdicts[c.b]) for c in found]
    assert [c.p_holm for c in found] == holm([c.p for c in found])
    assert [c.difference for c in found] == [paired_difference(verdicts[c.a], verdicts[c.b]) for c in found]
    assert pairwise({"a": right < 80}) == []


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.tuples(*[st.booleans()] * 4), min_size=1, max_size=9))
def test_undecided_examples_count_against_a_difference(examples):
    a_least, a_open, b_least, b_open = (np.array(column) for column in zip(*examples, strict=True))
    a, b = Bounds(a_least, a_least | a_open), Bounds(b_least, b_least | b_open)
    (found,) = pairwise({"a": a, "b": b})
    extremes = [mcnemar_exact(a.least, b.most), mcnemar_exact(a.most, b.least)]
    differences = [np.mean(a.least) - np.mean(b.most), np.mean(a.most) - np.mean(b.least)]
    assert found.p >= max(extremes) - 1e-12
    assert abs(found.difference.value) <= min(abs(d) for d in differences) + 1e-12
    assert found.difference.low <= differences[0] and differences[1] <= found.difference.high
    if not (a_open & ~a_least).any() and not (b_open & ~b_least).any():
        assert found == pairwise({"a": a.least, "b": b.least})[0]
