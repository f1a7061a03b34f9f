from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.errors import UserError
from robust_lowrank.records import Certificate, CertificateRecord, CurvePoint
from robust_lowrank.reporting.comparing.brackets import certified_accuracy, find_brackets
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.comparison_summary import summarise
from robust_lowrank.reporting.output.frames import results_frame
from robust_lowrank.reporting.sections import certificates

CLEAN = np.arange(10) < 9  # the ninth example on are wrong; `make_result` labels all of them 1
RADII = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.1, 0.1, 0.9])


def frame(**changes) -> pd.DataFrame:
    columns = {
        "example": np.arange(10),
        "label": 1,
        "prediction": np.where(CLEAN, 1, 0),
        "margin": 1.0,
        "radius": RADII,
        "abstained": False,
    }
    return pd.DataFrame(columns | changes)


SMOOTHING = {"sigma": 0.25, "n0": 100, "n": 1000, "alpha": 0.001, "seed": 0}


def certificate(kind="lipschitz", table=None, weights="aa") -> Certificate:
    record = CertificateRecord(
        name=kind,
        kind=kind,
        created="2026-11-24T00:00:00+00:00",
        versions={},
        machine="",
        hashes={"weights": weights, "data": "d1"},
        parameters=SMOOTHING if kind == "smoothing" else {},
        assumptions=[],
        interval="Clopper–Pearson 95 %",
        curve=[],
        seconds=0.0,
    )
    return Certificate(record, frame() if table is None else table)


@pytest.fixture
def make_evaluation(make_run, make_result):
    def make(*certificates, norm="L2"):
        held = {("pgd", 0.1): CLEAN & (np.arange(10) < 8), ("pgd", 0.25): CLEAN & (np.arange(10) < 6)}
        made = make_result(CLEAN, held)
        made.record.norm = norm
        run = replace(make_run("A", results=[made]), certificates={c.record.name: c for c in certificates})
        return find_evaluations(arrange([run]))[0]

    return make


def test_certified_accuracy_counts_right_examples_within_their_radius():
    assert certified_accuracy(frame(), 0.0) == 0.9
    assert certified_accuracy(frame(), 0.1) == 0.6
    assert certified_accuracy(frame(), 0.35) == 0.1
    assert certified_accuracy(frame(), 0.5) == 0.0


def test_an_example_without_a_sure_class_is_not_certified():
    assert certified_accuracy(frame(abstained=True), 0.0) == 0.0


def test_the_bracket_has_both_bounds_at_every_radius(make_evaluation):
    evaluation = make_evaluation(certificate())
    (bracket,) = find_brackets(evaluation)
    assert bracket.examples == 10 and bracket.bounds
    assert (bracket.curve["certified"] <= bracket.curve["attacked"]).all()
    at = bracket.curve.set_index("radius")
    assert at.loc[0.0, "attacked"] == 0.9 and at.loc[0.1, "attacked"] == 0.8 and at.loc[0.25, "attacked"] == 0.6
    assert at.loc[0.2, "certified"] == 0.2  # holds just beyond 0.2
    section = certificates.Certificates.from_evaluation(evaluation)
    assert section.statement == "True accuracy at L2 eps 0.25: A between 20.0 and 60.0 %."
    (figure,) = section.figures
    assert "another classifier" not in figure.caption
    assert [mark["mark"]["type"] for mark in figure.page_specs()[0]["layer"]] == ["area", "line", "line"]


def test_smoothing_bounds_another_classifier(make_evaluation):
    evaluation = make_evaluation(certificate("smoothing"))
    section = certificates.Certificates.from_evaluation(evaluation)
    assert not section.brackets[0].bounds
    assert section.statement == ""
    (figure,) = section.figures
    assert "no lower bound of the attacked network's accuracy" in figure.caption
    assert [mark["mark"]["type"] for mark in figure.page_specs()[0]["layer"]] == ["line", "line"]


def test_only_what_was_certified_and_attacked_under_l2_is_drawn(make_evaluation):
    assert find_brackets(make_evaluation()) == ()
    assert certificates.Certificates.from_evaluation(make_evaluation()) is None
    assert find_brackets(make_evaluation(certificate(), norm="Linf")) == ()
    assert find_brackets(make_evaluation(certificate(table=frame().iloc[:4])))[0].examples == 4
    both = make_evaluation(certificate(), certificate("smoothing"))
    titles = [panel.title for panel in certificates.Certificates.from_evaluation(both).figures[0].panels]
    assert titles == ["A, certified", "A, smoothed network, σ = 0.25, 1,000 samples, α = 0.001"]


def test_certificates_of_other_examples_are_left_out_and_those_of_other_weights_refused(make_evaluation):
    assert find_brackets(make_evaluation(certificate(table=frame(label=7)))) == ()
    with pytest.raises(UserError, match=r"lipschitz is of other weights \(dead\) than run.json names"):
        make_evaluation(certificate(weights="dead"))


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), min_size=1, max_size=8), st.floats(0, 5), st.floats(0, 5))
def test_certified_accuracy_falls_with_the_radius(examples, one, other):
    table = pd.DataFrame(
        {
            "label": 1,
            "prediction": [int(right) for right, _ in examples],
            "radius": [radius for _, radius in examples],
            "abstained": False,
        }
    )
    small, large = sorted((one, other))
    assert 0 <= certified_accuracy(table, large) <= certified_accuracy(table, small) <= 1


def _compared(make_run, make_result, radii):
    """A evaluation of runs that differ in their radii alone, all right and all attacked in vain."""
    right = np.ones(40, dtype=bool)
    runs = []
    for name, radius in radii.items():
        made = make_result(right, {("pgd", 0.25): right})
        made.record.norm = "L2"
        rows = {"example": np.arange(40), "label": 1, "prediction": 1, "margin": 1.0, "radius": radius, "abstained": False}
        run = make_run(name, method="dense" if name == "Dense" else "condlr", results=[made])
        runs.append(replace(run, certificates={"lipschitz": certificate(table=pd.DataFrame(rows))}))
    return find_evaluations(arrange(runs))[0]


@pytest.mark.slow
def test_who_has_most_proved_is_told_with_its_test(make_run, make_result):
    far, near = np.full(40, 0.5), np.r_[np.full(20, 0.5), np.full(20, 0.1)]
    evaluation = _compared(make_run, make_result, {"Dense": near, "CondLR": far})
    (section,) = certificates.Certificates.find(Evidence(evaluation.entries, (evaluation,)))
    (statement,) = certificates.statements(section)
    assert statement.kind == "supported"
    assert statement.text.startswith(
        "Proved at L2 eps 0.25: CondLR is right on 100.0 % [91.2, 100.0] of 40 examples whatever the attack, Dense"
    )
    assert "on 50.0 % [33.8, 66.2]" in statement.text and "p < 0.001, Holm-corrected over all 3 tests" in statement.text
    rows = {row[0].text: row for row in section.tables[0].rows}
    assert rows["Dense"][2].text == "50.0 to 100.0" and rows["CondLR"][2].text == "100.0 to 100.0"
    assert rows["Dense"][2].sub == "[33.8, 100.0]"
    assert statement in summarise(Evidence(evaluation.entries, (evaluation,))).statements


def test_equal_radii_are_not_told_apart(make_run, make_result):
    evaluation = _compared(make_run, make_result, {"Dense": np.full(40, 0.5), "CondLR": np.full(40, 0.4)})
    (section,) = certificates.Certificates.find(Evidence(evaluation.entries, (evaluation,)))
    (statement,) = certificates.statements(section)
    assert statement.kind == "open" and "cannot tell these apart" in statement.text


def test_one_network_alone_has_nothing_to_be_compared_with(make_evaluation):
    evaluation = make_evaluation(certificate())
    (statement,) = certificates.statements(certificates.Certificates.from_evaluation(evaluation))
    assert statement.text == "Proved at L2 eps 0.25: A is right on 20.0 % [2.5, 55.6] of 10 examples whatever the attack."
    smoothed = make_evaluation(certificate("smoothing"))
    section = certificates.Certificates.from_evaluation(smoothed)
    assert certificates.statements(section) == []
    assert section.tables == ()


def test_the_table_of_results_holds_what_is_certified(make_run):
    found = certificate()
    found.record.curve = [CurvePoint(radius=0.1, certified=6, total=10, value=0.6, low=0.26, high=0.88)]
    run = replace(make_run("A"), certificates={"lipschitz": found})
    (row,) = results_frame(arrange([run])).to_dict("records")
    assert (row["suite"], row["attack"], row["norm"], row["eps"]) == ("certify", "lipschitz", "L2", 0.1)
    assert (row["correct"], row["n"], row["accuracy"], row["low"], row["high"]) == (6, 10, 0.6, 0.26, 0.88)


def test_where_nothing_is_proved_at_the_headline_a_smaller_eps_is_told(make_run, make_result):
    near = {"Dense": np.full(40, 0.12), "CondLR": np.full(40, 0.15)}
    right = np.ones(40, dtype=bool)
    runs = []
    for name, radius in near.items():
        made = make_result(right, {("pgd", eps): right for eps in (0.1, 0.25, 0.5)})
        made.record.norm = "L2"
        rows = {"example": np.arange(40), "label": 1, "prediction": 1, "margin": 1.0, "radius": radius, "abstained": False}
        runs.append(replace(make_run(name, results=[made]), certificates={"lipschitz": certificate(table=pd.DataFrame(rows))}))
    evaluation = find_evaluations(arrange(runs))[0]
    (statement,) = certificates.statements(certificates.Certificates.from_evaluation(evaluation))
    assert statement.text.startswith("Proved at L2 eps 0.1:")
    for run in runs:
        run.certificates["lipschitz"].table["radius"] = 0.01
    (statement,) = certificates.statements(certificates.Certificates.from_evaluation(evaluation))
    assert statement.text == "Nothing is proved at L2 eps 0.1: the Lipschitz bounds are too large."


def test_panels_of_different_counts_say_theirs(make_run, make_result):
    evaluation = _compared(make_run, make_result, {"Dense": np.full(40, 0.5), "CondLR": np.full(40, 0.4)})
    certified = evaluation.entries[0].run.certificates
    certified["lipschitz"] = certificate(table=certified["lipschitz"].table.iloc[:10])
    (figure,) = certificates.Certificates.from_evaluation(evaluation).figures
    assert {panel.title for panel in figure.panels} == {"Dense, n = 10", "CondLR, n = 40"}
    assert figure.caption.startswith("The examples that were certified and attacked.")
