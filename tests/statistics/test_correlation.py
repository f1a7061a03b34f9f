import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from robust_lowrank.errors import UserError
from robust_lowrank.statistics import LEAST_PAIRS, partial_rank_correlation, rank_correlation
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


def recursion(matrix, x, y, given):
    """Return the partial correlation from those of pairs, by the recursion of textbooks."""
    if not given:
        return matrix[x, y]
    z, *rest = given
    xy, xz, yz = (recursion(matrix, *pair, rest) for pair in ((x, y), (x, z), (y, z)))
    return (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_partial_correlation_is_that_of_the_recursion(count):
    rng = np.random.default_rng(count)
    columns = rng.normal(size=(2 + count, 20)) + rng.normal(size=20)
    found = partial_rank_correlation(columns[0], columns[1], list(columns[2:]))
    matrix = (
        np.atleast_2d(spearmanr(columns, axis=1).statistic)
        if count
        else np.array([[1, s := spearmanr(*columns).statistic], [s, 1]])
    )
    assert found.spearman.value == pytest.approx(recursion(matrix, 0, 1, list(range(2, 2 + count))))
    assert found.spearman.low <= found.spearman.value <= found.spearman.high
    assert found.points == 20
    if not count:
        assert found.p == pytest.approx(spearmanr(*columns).pvalue)


def test_a_relation_that_size_explains_vanishes_and_one_that_it_hides_shows():
    rng = np.random.default_rng(0)
    size = np.arange(40.0)
    x, y = size + 6 * rng.normal(size=40), size + 6 * rng.normal(size=40)
    assert rank_correlation(x, y).p < 1e-6
    assert partial_rank_correlation(x, y, [size]).p > 0.05
    own = 3 * rng.normal(size=40)
    assert rank_correlation(size + own, size - own).spearman.value > 0.5
    hidden = partial_rank_correlation(size + own, size - own + 0.1 * rng.normal(size=40), [size])
    assert hidden.spearman.high < 0 and hidden.p < 1e-6


def test_without_a_relation_small_p_are_as_rare_as_they_say():
    rng = np.random.default_rng(3)
    p = []
    for _ in range(200):
        size = rng.normal(size=15)
        p.append(partial_rank_correlation(size + rng.normal(size=15), size + rng.normal(size=15), [size]).p)
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.1


def test_partial_correlations_that_cannot_be_known_are_none():
    x, y = [1.0, 2, 3, 5, 4, 6, 7], [2.0, 1, 4, 3, 6, 5, 7]
    assert partial_rank_correlation(x, y, [x]) is None  # it explains all of x
    assert partial_rank_correlation(x[:5], y[:5], [y[::-1][:5]]) is None
    assert partial_rank_correlation([1] * 7, y, [x]) is None
    assert partial_rank_correlation(x, y, [[3] * 7]).spearman.value == pytest.approx(spearmanr(x, y).statistic)
    with pytest.raises(UserError, match="as many values"):
        partial_rank_correlation(x, y, [[1, 2]])
