import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.errors import UserError
from robust_lowrank.reporting import certificates
from robust_lowrank.reporting.certificates import certified_accuracy, find_brackets, read_certificates
from robust_lowrank.reporting.entries import arrange
from robust_lowrank.reporting.trials import find_trials

CLEAN = np.arange(10) < 9  # the ninth example on are wrong; `make_result` labels all of them 1
RADII = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.0, 0.0, 0.1, 0.1, 0.9])


def frame(**changes) -> pd.DataFrame:
    columns = {"example": np.arange(10), "label": 1, "prediction": np.where(CLEAN, 1, 0), "margin": 1.0, "radius": RADII}
    return pd.DataFrame(columns | changes)


def write(run_dir, name="lipschitz", kind="lipschitz", table=None):
    directory = run_dir / "certificates"
    directory.mkdir(parents=True, exist_ok=True)
    (frame() if table is None else table).to_parquet(directory / f"{name}.parquet")
    (directory / f"{name}.json").write_text(json.dumps({"kind": kind, "parameters": {"samples": 100}, "curve": []}))


@pytest.fixture
def make_trial(make_run, make_result, tmp_path):
    def make(norm="L2"):
        held = {("pgd", 0.1): CLEAN & (np.arange(10) < 8), ("pgd", 0.25): CLEAN & (np.arange(10) < 6)}
        made = make_result(CLEAN, held)
        made.record.norm = norm
        return find_trials(arrange([make_run("A", results=[made], path=str(tmp_path / "A"))]))[0]

    return make


def test_certified_accuracy_counts_right_examples_within_their_radius():
    assert certified_accuracy(frame(), 0.0) == 0.9
    assert certified_accuracy(frame(), 0.1) == 0.6
    assert certified_accuracy(frame(), 0.35) == 0.1
    assert certified_accuracy(frame(), 0.5) == 0.0


def test_the_bracket_has_both_bounds_at_every_radius(make_trial, tmp_path):
    write(tmp_path / "A")
    trial = make_trial()
    (bracket,) = find_brackets(trial)
    assert bracket.examples == 10 and bracket.certificate.bounds
    assert (bracket.curve["certified"] <= bracket.curve["attacked"]).all()
    at = bracket.curve.set_index("radius")
    assert at.loc[0.0, "attacked"] == 0.9 and at.loc[0.1, "attacked"] == 0.8 and at.loc[0.25, "attacked"] == 0.6
    assert at.loc[0.2, "certified"] == 0.2  # holds just beyond 0.2
    assert certificates.statement([bracket], trial) == "True accuracy at L2 eps 0.1: A between 60.0 and 80.0 %."
    figure = certificates.figure([bracket], trial)
    assert "another classifier" not in figure.caption
    assert [mark["mark"]["type"] for mark in figure.page_specs()[0]["layer"]] == ["area", "line", "line"]


def test_smoothing_bounds_another_classifier(make_trial, tmp_path):
    write(tmp_path / "A", "smoothing", "smoothing", frame(prediction=-1))
    trial = make_trial()
    brackets = find_brackets(trial)
    assert not brackets[0].certificate.bounds
    assert certificates.statement(brackets, trial) == ""
    figure = certificates.figure(brackets, trial)
    assert "no lower bound of the attacked network's accuracy" in figure.caption
    assert [mark["mark"]["type"] for mark in figure.page_specs()[0]["layer"]] == ["line", "line"]


def test_only_what_was_certified_and_attacked_under_l2_is_drawn(make_trial, tmp_path):
    assert find_brackets(make_trial()) == []
    assert certificates.figure([], make_trial()) is None
    write(tmp_path / "A")
    assert find_brackets(make_trial("Linf")) == []
    write(tmp_path / "A", table=frame(label=7))
    assert find_brackets(make_trial()) == []
    write(tmp_path / "A", table=frame().iloc[:4])
    assert find_brackets(make_trial())[0].examples == 4


def test_what_is_no_certificate_is_named(tmp_path):
    write(tmp_path, table=frame().drop(columns="radius"))
    with pytest.raises(UserError, match="no column 'radius'"):
        read_certificates(tmp_path)
    (tmp_path / "certificates" / "lipschitz.json").write_text("[1]")
    with pytest.raises(UserError, match="cannot be read as a certificate"):
        read_certificates(tmp_path)
    assert read_certificates(tmp_path / "none") == []


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 5)), min_size=1, max_size=8), st.floats(0, 5), st.floats(0, 5))
def test_certified_accuracy_falls_with_the_radius(examples, one, other):
    table = pd.DataFrame(
        {"label": 1, "prediction": [int(right) for right, _ in examples], "radius": [radius for _, radius in examples]}
    )
    small, large = sorted((one, other))
    assert 0 <= certified_accuracy(table, large) <= certified_accuracy(table, small) <= 1
