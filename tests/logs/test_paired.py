"""Systems are compared on the same examples alone, and the figures are those of scipy and statsmodels."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from robust_lowrank.errors import UserError
from robust_lowrank.logs import Log, better, compare, power


def log(right: np.ndarray, *, start: int = 0, subject: str = "", unscored: int = 0) -> Log:
    names = [str(start + number) for number in range(len(right))]
    subjects = {name: subject + name for name in names} if subject else {}
    return Log(Path("a.csv"), "csv", "correct", dict(zip(names, map(bool, right), strict=True)), subjects, unscored, "")


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    counts = (both, only_a, only_b, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_the_figures_of_known_tables() -> None:
    a, b = table(60, 22, 7, 11)
    c = np.arange(100) % 3 > 0
    paired = compare({"a": log(a), "b": log(b), "c": log(c)})
    verdicts = {"a": a, "b": b, "c": c}
    p_values = []
    for test in paired.comparisons:
        first, second = verdicts[test.a], verdicts[test.b]
        counts = [[np.sum(first & second), np.sum(first & ~second)], [np.sum(~first & second), np.sum(~first & ~second)]]
        p_values.append(mcnemar(counts, exact=True).pvalue)
        assert test.p == pytest.approx(p_values[-1])
        assert test.difference.value == pytest.approx(first.mean() - second.mean())
        assert test.difference.low <= test.difference.value <= test.difference.high
    assert [test.p_holm for test in paired.comparisons] == pytest.approx(multipletests(p_values, method="holm")[1])
    assert paired.comparisons[0].p == pytest.approx(binomtest(22, 29).pvalue)
    for system, right in zip(paired.systems, verdicts.values(), strict=True):
        assert (system.accuracy.low, system.accuracy.high) == pytest.approx(proportion_confint(right.sum(), 100, method="wilson"))
    assert paired.discordance == pytest.approx(np.mean([np.mean(verdicts[t.a] != verdicts[t.b]) for t in paired.comparisons]))
    assert power(paired).startswith("With power 80 %, 100 examples show differences from")
    assert f"1 point takes {paired.needed:,} examples" in power(paired)


def test_a_baseline_makes_a_smaller_family() -> None:
    a, b = table(60, 22, 7, 11)
    logs = {"a": log(a), "b": log(b), "c": log(a), "d": log(b)}
    pairs = compare(logs, baseline="b").comparisons
    assert [(test.a, test.b) for test in pairs] == [("a", "b"), ("c", "b"), ("d", "b")]
    assert pairs[0].p_holm == pytest.approx(3 * pairs[0].p)
    assert [better(test) for test in pairs] == ["a", "c", None]
    assert len(compare(logs).comparisons) == 6
    with pytest.raises(UserError, match="unknown system 'e'"):
        compare(logs, baseline="e")


def test_examples_are_met_by_name_whatever_their_order() -> None:
    right = np.arange(50) % 2 > 0
    turned = log(right)._replace(right=dict(reversed(log(right).right.items())))
    [test] = compare({"a": log(right), "b": turned}).comparisons
    assert (test.only_a, test.only_b, test.p) == (0, 0, 1.0)


def test_missing_examples_are_refused_or_left_out() -> None:
    logs = {"a": log(np.ones(10)), "b": log(np.ones(8), unscored=2), "c": log(np.ones(10), start=1)}
    with pytest.raises(
        UserError,
        match=r"b lacks 3 of 11 examples, 2 of them without a score, such as '8'; 2 other logs lack some too\n.*the 7 that",
    ):
        compare(logs)
    paired = compare(logs, common=True)
    assert (paired.examples, paired.left_out) == (7, 4)
    with pytest.raises(UserError, match="no example is in all of the 2 logs: a has '0', b has '99'"):
        compare({"a": log(np.ones(5)), "b": log(np.ones(5), start=99)}, common=True)


def test_different_things_under_one_name_are_refused() -> None:
    with pytest.raises(UserError, match=r"the example '0' of b is another than that of a: .* different tasks"):
        compare({"a": log(np.ones(5), subject="x"), "b": log(np.ones(5), subject="y")})
    compare({"a": log(np.ones(5), subject="x"), "b": log(np.ones(5))})


def test_few_and_equal_examples() -> None:
    paired = compare({"a": log(np.ones(1)), "b": log(np.zeros(1))})
    assert paired.smallest is None
    assert power(paired) == "1 examples are too few to show any difference, however large."
    assert compare({"a": log(np.ones(9)), "b": log(np.ones(9))}).discordance == 0
    with pytest.raises(UserError, match="a comparison takes 2 to 100 logs, not 1"):
        compare({"a": log(np.ones(5))})
