import numpy as np
import pytest

from robust_lowrank.reporting.comparing.comparisons import MANY, AllTests, compare, corrected
from robust_lowrank.reporting.comparing.contrasts import contrast, leaders
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.comparing.evidence import gather
from robust_lowrank.statistics import holm, mcnemar_exact, paired_difference

CLEAN = np.ones(100, dtype=bool)


def held(count: int, first: int = 0) -> np.ndarray:
    return (np.arange(100) >= first) & (np.arange(100) < first + count)


def made(evaluation, eps=0.1) -> AllTests:
    return corrected({"": AllTests(compare(evaluation, eps))})[""]


@pytest.fixture
def evaluation_of(make_run, make_result):
    def build(*verdicts):
        runs = [make_run(label, seed=seed, results=[make_result(CLEAN, {("fgsm", 0.1): right})]) for label, seed, right in verdicts]
        (evaluation,) = find_evaluations(arrange(runs))
        return evaluation

    return build


def test_tests_are_those_of_the_statistics(evaluation_of):
    a, b, c = held(60), held(40, first=10), held(58)
    tests = compare(evaluation_of(("a", 0, a), ("b", 0, b), ("c", 0, c)), 0.1)
    pairs = [(a, b), (a, c), (b, c)]
    raw = [mcnemar_exact(x, y) for x, y in pairs]
    assert [t.p for t in tests] == raw
    assert [(t.only_first, t.only_second) for t in tests] == [(int((x & ~y).sum()), int((y & ~x).sum())) for x, y in pairs]
    assert tests[0].difference == paired_difference(a, b)
    assert not any(t.supported for t in tests)  # before they are corrected


def test_one_family_spans_every_test_of_a_report(make_run, make_result):
    def results(count, suite, attack):
        found = {("fgsm", eps): held(round(count * (1 - eps))) for eps in (0.1, 0.3)}
        return make_result(held(90), found, suite=suite, attack=attack)

    runs = [
        make_run(label, results=[results(n, "quick", "a1"), results(n - 9, "slow", "a2")])
        for label, n in (("a", 80), ("b", 70), ("c", 60))
    ]
    evidence = gather(runs)
    tests = [test for evaluation in evidence.evaluations for test in evidence.tests(evaluation).attacked]
    assert len(tests) == 2 * 3 * 3  # suites, budgets with clean accuracy, pairs
    assert {test.family for test in tests} == {18}
    assert [test.adjusted for test in tests] == holm([test.p for test in tests])


def test_better_needs_support(evaluation_of):
    evaluation = evaluation_of(("a", 0, held(60)), ("b", 0, held(30)), ("c", 0, held(58)))
    tests = made(evaluation)
    assert contrast(tests, 0.1, "a", "b").better == "a"
    assert contrast(tests, 0.1, "b", "a").better == "a"
    assert contrast(tests, 0.1, "a", "c").better is None
    assert leaders(evaluation, tests, 0.1) == {"a", "c"}


def test_of_many_methods_each_meets_the_first_alone(evaluation_of):
    """Of all pairs of thirteen Holm's correction would leave little to be seen; and nobody is best who was not tested."""
    few = evaluation_of(*((f"n{place}", 0, held(30 + 4 * place)) for place in range(MANY)))
    assert len(compare(few, 0.1)) == MANY * (MANY - 1) / 2
    many = evaluation_of(*((f"n{place}", 0, held(20 + 4 * place)) for place in range(MANY + 1)))
    tests = made(many)
    assert [(test.first.series, test.second.series) for test in tests.attacked] == [
        ("n0", f"n{place + 1}") for place in range(MANY)
    ]
    assert {test.family for test in tests.attacked} == {MANY}
    assert contrast(tests, 0.1, "n12", "n0").better == "n12" and contrast(tests, 0.1, "n12", "n11") is None
    assert leaders(many, tests, 0.1) == set()


def test_nothing_stands_out_without_support(evaluation_of):
    evaluation = evaluation_of(("a", 0, held(60)), ("b", 0, held(58)))
    assert leaders(evaluation, made(evaluation), 0.1) == set()


def test_a_method_is_better_only_if_every_seed_is(evaluation_of):
    mixed = evaluation_of(("a", 0, held(60)), ("a", 1, held(31)), ("b", 0, held(30)), ("b", 1, held(30)))
    between = contrast(made(mixed), 0.1, "a", "b")
    assert between.pairs == 2
    assert between.better is None
    agreed = evaluation_of(("a", 0, held(60)), ("a", 1, held(55)), ("b", 0, held(30)))
    between = contrast(made(agreed), 0.1, "a", "b")
    assert between.pairs == 2
    assert between.better == "a"


def test_clean_accuracy_is_compared_at_eps_0(make_run, make_result):
    runs = [
        make_run(label, results=[make_result(right, {("fgsm", 0.1): right})]) for label, right in (("a", held(90)), ("b", held(50)))
    ]
    (evaluation,) = find_evaluations(arrange(runs))
    (test,) = made(evaluation, 0).attacked
    assert test.p == mcnemar_exact(held(90), held(50))
    assert test.better.name == "a"


def test_one_network_has_nothing_to_be_compared_with(evaluation_of):
    assert compare(evaluation_of(("a", 0, held(60))), 0.1) == ()


def test_unresolved_examples_never_make_a_difference(make_run, make_result):
    def test_of(unresolved):
        runs = [
            make_run("a", results=[make_result(CLEAN, {("fgsm", 0.1): held(60)}, unresolved=unresolved)]),
            make_run("b", results=[make_result(CLEAN, {("fgsm", 0.1): held(40)})]),
        ]
        (evaluation,) = find_evaluations(arrange(runs))
        (test,) = made(evaluation).attacked
        return test

    few, many = test_of(held(5, first=40)), test_of(held(20, first=40))
    assert few.better is not None and few.difference.value == pytest.approx(0.15)
    assert few.p == mcnemar_exact(held(55), held(40))
    assert few.difference.high == paired_difference(held(60), held(40)).high
    assert many.better is None and many.difference.value == 0


def test_a_contrast_knows_how_often_two_networks_disagree(evaluation_of):
    tests = made(evaluation_of(("a", 0, held(60)), ("b", 0, held(40, first=30))))
    assert contrast(tests, 0.1, "a", "b").discordance == pytest.approx(0.4)
