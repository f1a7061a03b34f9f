import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from robust_lowrank.errors import UserError
from robust_lowrank.statistics import LEAST_PAIRS, rank_correlation
from robust_lowrank.statistics.correlation import _kendall, _pearson

PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=LEAST_PAIRS, max_size=12)


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_coefficients_are_those_of_scipy_with_ties(pairs):
    x, y = np.array(pairs, dtype=float).T
    found = rank_correlation(x, y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
        return
    assert found.pairs == len(pairs)
    assert found.spearman.value == pytest.approx(spearmanr(x, y).statistic)
    assert found.kendall.value == pytest.approx(kendalltau(x, y).statistic)
    assert found.p == pytest.approx(kendalltau(x, y).pvalue)
    for interval in (found.spearman, found.kendall):
        assert -1 - 1e-12 <= interval.low <= interval.high <= 1 + 1e-12


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_the_resampled_coefficients_are_the_same_formulas(pairs):
    from scipy.stats import rankdata

    x, y = np.array(pairs, dtype=float).T
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert _kendall(x[None], y[None])[0] == pytest.approx(kendalltau(x, y).statistic)
        assert _pearson(rankdata(x)[None], rankdata(y)[None])[0] == pytest.approx(spearmanr(x, y).statistic)
    else:
        assert np.isnan(_kendall(x[None], y[None])[0]) and np.isnan(_pearson(x[None], y[None])[0])


def test_only_the_order_counts_and_infinity_is_the_largest():
    x = [1.0, 2.0, 3.0, 50.0, 1e300]
    assert rank_correlation(x, np.log(x)).spearman.value == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4, np.inf], [5, 4, 3, 2, 1]).kendall.value == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4, 5, np.nan], [5, 4, 3, 2, 1, 9]).pairs == 5


def test_few_pairs_are_not_enough():
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 4]) is None
    assert rank_correlation([1, 2, 3, 4, np.nan], [1, 2, 3, 4, 5]) is None
    assert rank_correlation([1] * 6, [1, 2, 3, 4, 5, 6]) is None
    assert rank_correlation([], []) is None


def test_the_interval_covers_no_relation_where_there_is_none_and_narrows_where_there_is_one():
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    none, strong = rank_correlation(x, rng.normal(size=60)), rank_correlation(x, x + 0.3 * rng.normal(size=60))
    assert none.spearman.low < 0 < none.spearman.high and none.kendall.low < 0 < none.kendall.high
    assert strong.spearman.low > 0.7 and strong.p < 1e-6
    assert rank_correlation(x, x[::-1], seed=3) == rank_correlation(x, x[::-1], seed=3)


def test_wrong_use_is_said():
    with pytest.raises(UserError, match="as many values"):
        rank_correlation([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="confidence"):
        rank_correlation([1, 2, 3], [1, 2, 3], confidence=1)
