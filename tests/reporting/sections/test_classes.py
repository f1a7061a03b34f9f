import numpy as np
import pytest

from robust_lowrank.records import Result
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.sections import classes
from robust_lowrank.statistics import bounded, wilson

LABELS = np.arange(60) % 3
CLEAN = np.ones(60, dtype=bool)
HELD = {"A": np.arange(60) % 3 != 1, "B": np.arange(60) < 30}


def relabelled(result: Result, labels: np.ndarray) -> Result:
    verdicts = result.verdicts
    verdicts["label"] = labels[verdicts["example"].to_numpy()]
    verdicts["clean_prediction"] = verdicts["label"].where(verdicts["verdict"] != "misclassified", -1)
    return result


@pytest.fixture
def make_evaluation(make_run, make_result):
    def make(held=HELD, labels=LABELS, unresolved=None, **changes):
        count = len(labels)
        runs = [
            make_run(
                name,
                results=[relabelled(make_result(CLEAN[:count], {("fgsm", 0.1): right[:count]}, unresolved=unresolved), labels)],
                **changes,
            )
            for name, right in held.items()
        ]
        return find_evaluations(arrange(runs))[0]

    return make


def test_accuracies_by_class_are_counted_with_their_intervals(make_evaluation):
    found = classes.Classes.from_evaluation(make_evaluation())
    assert found.sizes == {0: 20, 1: 20, 2: 20}
    rows = found.frame.set_index(["series", "label", "kind"])
    for label, right in ((0, 20), (1, 0), (2, 20)):
        row = rows.loc["A", label, "worst"]
        assert (row["value"], row["low"], row["high"]) == wilson(right, 20)
    assert (rows.xs("clean", level="kind")["value"] == 1).all()
    assert found.order[0] == 1  # A holds nothing of it, B half


def test_the_table_names_classes_weakest_first(make_evaluation):
    found = classes.Classes.from_evaluation(make_evaluation(classes=["cat", "dog", "<b>"]))
    worst, clean = found.tables
    assert worst.rows[0][0].text == "dog" and worst.rows[0][1].text == "20"
    assert [cell.text for cell in worst.rows[0][2:]] == ["0.0", "50.0"]
    assert [row[0].text for row in clean.rows] == [row[0].text for row in worst.rows]
    assert "class dog (mean over the methods 25.0 %, n = 20)" in found.statement
    assert len(found.figures[0].panels) == 2


def test_unresolved_examples_widen_the_interval(make_evaluation):
    evaluation = make_evaluation({"A": HELD["A"]}, unresolved=np.arange(60) < 6)
    row = classes.Classes.from_evaluation(evaluation).frame.set_index(["label", "kind"]).loc[0, "worst"]
    low, value, high = bounded(18, 2, 20).low, 0.9, bounded(18, 2, 20).high
    assert (row["low"], row["value"], row["high"], row["most"]) == (low, value, high, 1.0)


def test_too_few_examples_of_a_class_make_no_view(make_evaluation):
    assert classes.Classes.from_evaluation(make_evaluation(labels=LABELS[:12])) is None
    assert classes.Classes.from_evaluation(make_evaluation(labels=np.zeros(60, dtype=int))) is None


def test_of_many_classes_the_weakest_are_drawn(make_evaluation):
    labels = np.arange(60) % 12
    (few,) = classes.Classes.from_evaluation(make_evaluation(labels=labels)).figures
    assert "weakest of" not in few.caption


def test_a_label_beyond_the_names_is_a_number(make_run):
    entry = arrange([make_run("A", classes=["cat"])])[0]
    assert [entry.class_name(label) for label in (0, 1, -1)] == ["cat", "1", "-1"]
