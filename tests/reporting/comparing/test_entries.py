from dataclasses import replace

import numpy as np
import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.output.frames import results_frame


def names(runs):
    return [entry.name for entry in arrange(runs)]


def test_baselines_come_first_and_seeds_share_a_series(make_run):
    runs = [
        make_run("CondLR", method="condlr", seed=1),
        make_run("CondLR", method="condlr", seed=0),
        make_run("Plain", method="vanilla"),
        make_run("Dense"),
    ]
    entries = arrange(runs)
    assert [entry.name for entry in entries] == ["Dense", "Plain", "CondLR, seed 0", "CondLR, seed 1"]
    assert [entry.series for entry in entries] == ["Dense", "Plain", "CondLR", "CondLR"]


def test_one_label_for_two_ranks_gets_two_names(make_run):
    runs = [
        make_run("CondLR", method="condlr", path=f"runs/{rank}", config={"method": {"rank": rank}, "seed": 0})
        for rank in (0.2, 0.5)
    ]
    assert names(runs) == ["CondLR (rank=0.2)", "CondLR (rank=0.5)"]


def test_one_label_on_two_models_gets_two_names(make_run):
    runs = [make_run("Dense", model=model, path=f"runs/{model}") for model in ("mlp", "cnn")]
    assert names(runs) == ["Dense (mlp)", "Dense (cnn)"]


def test_a_directory_given_twice_counts_once(make_run):
    run = make_run("Dense")
    assert names([run, run]) == ["Dense"]


def test_the_same_seed_twice_is_told_apart_by_directory(make_run):
    assert names([make_run("Dense", path="runs/a"), make_run("Dense", path="runs/b")]) == [
        "Dense, seed 0, runs/a",
        "Dense, seed 0, runs/b",
    ]


def test_no_runs_is_an_error():
    with pytest.raises(UserError, match="no run directories"):
        arrange([])


def test_a_result_that_is_repeated_on_more_examples_is_superseded_and_stays_in_the_table(make_run, make_result):
    few, many, other = (np.ones(count, dtype=bool) for count in (8, 40, 40))
    results = {
        "quick": make_result(few, {("fgsm", 0.1): few}),
        "quick-2": make_result(many, {("fgsm", 0.1): many}),
        "quick-3": make_result(other, {("fgsm", 0.05): other}),
    }
    (entry,) = arrange([replace(make_run("a", results=[]), results=results)])
    assert list(entry.run.results) == ["quick-2", "quick-3"]
    assert {name: newer for name, (_, newer) in entry.superseded.items()} == {"quick": "quick-2"}
    frame = results_frame([entry])
    fgsm = frame[frame["attack"] == "fgsm"]
    assert fgsm[["n", "eps", "superseded"]].to_numpy().tolist() == [[40, 0.1, False], [40, 0.05, False], [8, 0.1, True]]


def test_a_result_of_another_network_is_refused(make_run, make_result):
    right = np.ones(8, dtype=bool)
    made = make_result(right, {("fgsm", 0.1): right})
    made.record.hashes["weights"] = "dead" * 16
    with pytest.raises(UserError, match=r"is of other weights \(deaddeaddead\) than run.json names \(aa\)"):
        arrange([make_run("a", results=[made])])
    made.record.hashes["weights"] = "aa"
    made.record.behaviour["clean"] = "1 2 3"
    run = make_run("a", results=[made])
    run.record.behaviour["clean"] = "1 2 4"
    with pytest.raises(UserError, match="these weights and other answers, on clean inputs by 25 %"):
        arrange([run])
