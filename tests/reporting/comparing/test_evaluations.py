import numpy as np
import pytest

from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, find_evaluations
from robust_lowrank.reporting.comparing.remarks import remarks
from robust_lowrank.statistics import over_seeds, wilson

RIGHT = np.array([True] * 6 + [False] * 4)


def test_only_the_same_examples_and_the_same_suite_share_an_evaluation(make_run, make_result):
    held = {("fgsm", 0.1): RIGHT}
    runs = [
        make_run("a", results=[make_result(RIGHT, held)]),
        make_run("b", results=[make_result(RIGHT, held)]),
        make_run("other examples", results=[make_result(RIGHT, held, data="d2")]),
        make_run("other attack", results=[make_result(RIGHT, held, attack="a2")]),
        make_run("not attacked"),
    ]
    evaluations = find_evaluations(arrange(runs))
    assert [[entry.name for entry in evaluation.entries] for evaluation in evaluations] == [
        ["a", "b"],
        ["other examples"],
        ["other attack"],
    ]
    assert len({evaluation.slug for evaluation in evaluations}) == 3


def test_a_handful_of_examples_does_not_come_first(make_run, make_result):
    many = np.ones(150, dtype=bool)
    results = [
        make_result(many[:32], {("autoattack", 0.1): many[:32]}, suite="standard"),
        make_result(many, {("pgd-20", 0.1): many}, suite="quick"),
    ]
    assert [evaluation.suite for evaluation in find_evaluations(arrange([make_run("a", results=results)]))] == ["quick", "standard"]


def test_the_suite_with_autoattack_comes_first(make_run, make_result):
    results = [make_result(RIGHT, {(attack, 0.1): RIGHT}, suite=attack) for attack in ("fgsm", "autoattack")]
    assert [evaluation.suite for evaluation in find_evaluations(arrange([make_run("a", results=results)]))] == [
        "autoattack",
        "fgsm",
    ]


def test_worst_case_and_mean_over_seeds(make_run, make_result):
    a = np.array([True, True, False, False])
    b = np.array([True, False, True, False])
    clean = np.ones(4, dtype=bool)
    runs = [
        make_run("m", seed=0, results=[make_result(clean, {("fgsm", 0.1): a, ("pgd-20", 0.1): b})]),
        make_run("m", seed=1, results=[make_result(clean, {("fgsm", 0.1): a, ("pgd-20", 0.1): a})]),
    ]
    (evaluation,) = find_evaluations(arrange(runs))
    first, second = evaluation.entries
    assert evaluation.held(first, 0.1)["least"].tolist() == [True, False, False, False]
    assert evaluation.held(first, 0)["least"].all()
    mean = evaluation.mean("m", WORST, 0.1)
    assert mean is not None and mean.seeds == 2
    assert mean.value == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert mean.low == evaluation.accuracy(first, WORST, 0.1).low
    assert mean.high == evaluation.accuracy(second, WORST, 0.1).high
    assert evaluation.mean("m", CLEAN).value == 1


def test_the_verdicts_give_the_recorded_worst_case(trained):
    (evaluation,) = find_evaluations(arrange(trained))
    for entry in evaluation.entries:
        for eps in evaluation.eps:
            assert evaluation.held(entry, eps)["least"].sum() == evaluation.accuracy(entry, WORST, eps).correct


def test_an_attack_at_some_budgets_only_is_said_so(make_run, make_result):
    held = {("fgsm", 0.05): RIGHT, ("fgsm", 0.1): RIGHT, ("autoattack", 0.1): RIGHT}
    (evaluation,) = find_evaluations(arrange([make_run("a", results=[make_result(RIGHT, held)])]))
    assert evaluation.coverage == "FGSM and AutoAttack (eps 0.1 only)"
    assert evaluation.attacks_at(0.05) == ["fgsm"]
    assert evaluation.headline_eps == 0.1


def test_unresolved_examples_leave_a_range(make_run, make_result):
    everyone = np.ones(10, dtype=bool)
    unresolved = np.arange(10) < 2
    (evaluation,) = find_evaluations(
        arrange([make_run("a", results=[make_result(everyone, {("fgsm", 0.1): RIGHT}, unresolved=unresolved)])])
    )
    (entry,) = evaluation.entries
    assert evaluation.unresolved == 2
    assert evaluation.held(entry, 0.1).sum().to_dict() == {"least": 4, "most": 6}
    mean = evaluation.mean("a", WORST, 0.1)
    assert (mean.value, mean.most, mean.unresolved) == (0.4, 0.6, 2)
    assert mean.low < wilson(4, 10).high and mean.high == wilson(6, 10).high


def test_the_spread_is_that_between_seeds(make_run, make_result):
    clean, counts = np.ones(10, dtype=bool), (5, 6, 7)
    results = [make_result(clean, {("fgsm", 0.1): np.arange(10) < count}) for count in counts]
    runs = [make_run("m", seed=seed, results=[found]) for seed, found in enumerate(results)]
    (evaluation,) = find_evaluations(arrange(runs))
    assert evaluation.spread("m", WORST, 0.1) == over_seeds([0.5, 0.6, 0.7])
    assert evaluation.spread("nobody", WORST, 0.1) is None


def test_a_budget_that_nobody_withstands_is_passed_over_and_that_is_said(make_run, make_result):
    half, few = np.arange(100) < 50, np.arange(100) < 4
    held = {("fgsm", 2 / 255): half, ("fgsm", 4 / 255): few, ("fgsm", 8 / 255): few}
    (evaluation,) = find_evaluations(arrange([make_run(name, results=[make_result(half, held)]) for name in "ab"]))
    assert evaluation.headline_eps == 2 / 255
    assert evaluation.at_the_floor == [4 / 255]
    (note,) = [each.text for each in remarks(evaluation.entries, [evaluation]) if "more than 5 %" in each.text]
    assert note == "At eps 4/255 no network holds more than 5 %: this summary speaks of eps 2/255, the next below."


def test_where_all_budgets_are_too_large_the_middle_one_stays(make_run, make_result):
    none = np.zeros(100, dtype=bool)
    held = {("fgsm", eps): none for eps in (0.1, 0.2, 0.3)}
    (evaluation,) = find_evaluations(arrange([make_run("a", results=[make_result(~none, held)])]))
    assert (evaluation.headline_eps, evaluation.at_the_floor) == (0.2, [])


def test_evaluations_of_one_suite_are_told_apart(make_run, make_result):
    def titles(*results):
        return [each.title for each in find_evaluations(arrange([make_run(str(n), results=[r]) for n, r in enumerate(results)]))]

    many, few = np.ones(200, dtype=bool), np.ones(120, dtype=bool)
    first = make_result(many, {("fgsm", 0.1): many})
    assert titles(first) == ["quick, L∞"]
    assert titles(first, make_result(few, {("fgsm", 0.1): few}, data="d2")) == ["quick, L∞, n = 200", "quick, L∞, n = 120"]
    assert titles(first, make_result(many, {("fgsm", 0.2): many}, attack="a2")) == [
        "quick, L∞, eps 0.1",
        "quick, L∞, eps 0.2",
    ]
    again = make_result(many, {("fgsm", 0.1): many}, attack="a2")
    assert titles(first, again) == ["quick, L∞, no. 1", "quick, L∞, no. 2"]
