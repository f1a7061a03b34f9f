import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.reporting.comparing.entries import arrange


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
