import numpy as np
import pandas as pd
import pytest

from robust_lowrank.records import TRANSFER, Result
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.sections import transfers
from robust_lowrank.statistics import wilson

RIGHT = np.array([True] * 90 + [False] * 10)
NAMES = ("A", "B", "C")


def rows(target: str, fooled: dict[str, int], **changes) -> pd.DataFrame:
    common = {"source_seed": 0, "source_created": "", "target_weights": target.lower(), "data": "d1", "attack_hash": "a1"}
    common |= {"attack": "pgd-20", "norm": "Linf", "eps": 0.1, "tried": 40} | changes
    found = [{"source": name, "source_weights": name.lower(), "fooled": count, **common} for name, count in fooled.items()]
    return pd.DataFrame(found, columns=list(TRANSFER))


@pytest.fixture
def make_evaluation(make_run, make_result):
    def make(stored: dict[str, pd.DataFrame | None]):
        runs = []
        for name, transfer in stored.items():
            held = {("fgsm", 0.1): RIGHT & (np.arange(100) < 70), ("pgd-20", 0.1): RIGHT & (np.arange(100) < 50)}
            made = make_result(RIGHT, held)
            made.record.hashes["weights"] = name.lower()
            runs.append(make_run(name, results=[Result(made.record, made.verdicts, transfer)], hashes={"weights": name.lower()}))
        return find_evaluations(arrange(runs))[0]

    return make


@pytest.fixture
def evaluation(make_evaluation):
    fooled = {"A": {"B": 30, "C": 20}, "B": {"A": 10, "C": 10}, "C": {"A": 4, "B": 8}}
    return make_evaluation({name: rows(name, fooled[name]) for name in NAMES})


def test_the_matrix_is_that_of_the_strongest_attack(evaluation):
    found = transfers.Transfers.from_evaluation(evaluation)
    assert (found.attack, found.eps) == ("pgd-20", 0.1)
    assert found.counts["B", "A"] == (40, 30) and found.counts["A", "C"] == (40, 4)
    assert found.accuracy("B", "A") == wilson(10, 40)
    assert found.counts["A", "A"] == (40, 40) and found.accuracy("A", "A").value == 0
    assert len(found.others) == 6


def test_a_sentence_reads_the_matrix(evaluation):
    said = transfers.Transfers.from_evaluation(evaluation).statement
    mean = 100 * (1 - (30 + 20 + 10 + 10 + 4 + 8) / 240)
    assert f"stays right on {mean:.1f} % of what broke another one under PGD-20 at eps 0.1" in said
    assert "Inputs made on B transfer best (the others stay right on 52.5 %)" in said
    assert "C withstands the others' inputs best (85.0 %)" in said


def test_figure_and_table_hold_every_pair(evaluation):
    found = transfers.Transfers.from_evaluation(evaluation)
    (table,) = found.tables
    assert [column.title for column in table.columns] == ["Made on", *NAMES]
    assert [cell.text for cell in table.rows[0]] == ["A", "0.0", "75.0", "90.0"]
    assert table.rows[0][2].sub.endswith(", 40")
    spec = found.figures[0].page_specs()[0]
    drawn = next(iter(spec["datasets"].values()))
    assert {(row["source"], row["target"]): row["value"] for row in drawn}["B", "A"] == 0.25


@pytest.mark.parametrize("key", ["target_weights", "data", "attack_hash", "source_weights"])
def test_stale_rows_are_left_out(make_evaluation, key):
    assert transfers.Transfers.from_evaluation(make_evaluation({"A": rows("A", {"B": 3}), "B": None})) is not None
    stale = rows("A", {"B": 3}).assign(**{key: "other"})
    assert transfers.Transfers.from_evaluation(make_evaluation({"A": stale, "B": None})) is None


def test_a_file_of_another_form_is_no_transfer(make_evaluation):
    assert transfers.Transfers.from_evaluation(make_evaluation({"A": pd.DataFrame({"x": [1]}), "B": None})) is None


def test_pairs_that_were_not_tried_are_blank(make_evaluation):
    found = transfers.Transfers.from_evaluation(make_evaluation({"A": rows("A", {"B": 0}, tried=0), "B": None}))
    assert found.accuracy("B", "A") is None
    assert found.tables[0].rows[1][1].text == "–"
    assert "No input that broke a network here" in found.statement
