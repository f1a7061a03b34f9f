"""Every example whose verdict differs between a network and a form of it is shown with what broke the one alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from robust_lowrank.records import REPLAYED, ResultFiles
from robust_lowrank.records.deployed import Deployed
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.sections import flips

RIGHT = np.arange(20) != 7  # example 7 is wrong when clean
LOST_BY_RUN, LOST_BY_FORM, REPLAYED_ON_FORM = 3, 5, 9


def held(*broken: int) -> np.ndarray:
    return RIGHT & ~np.isin(np.arange(20), broken)


@pytest.fixture
def make_section(make_run, make_result, tmp_path, monkeypatch):
    """A run that lost examples 3 and 9, and a form of it that lost 5, 9 to the run's own input, and 11 when clean."""

    def make(limit: int = flips.LIMIT) -> flips.Flips | None:
        x = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)
        results = {}
        for name, right, broken in (
            ("run", held(LOST_BY_RUN, REPLAYED_ON_FORM), [LOST_BY_RUN, REPLAYED_ON_FORM]),
            ("form", held(LOST_BY_FORM), [LOST_BY_FORM]),
        ):
            path = tmp_path / name
            path.mkdir(exist_ok=True)
            save_file({"fgsm/0.1/inputs": 1 - x[broken], "fgsm/0.1/examples": np.array(broken)}, ResultFiles(path).adversarial)
            save_file({"inputs": x, "examples": np.arange(20)}, ResultFiles(path).flipped)
            results[name] = replace(make_result(RIGHT, {("fgsm", 0.1): right}), path=path)
        clean = results["form"].verdicts
        clean.loc[clean["example"] == 11, "clean_prediction"] = 0  # the form alone is wrong on it
        columns = {"example": [REPLAYED_ON_FORM], "attack": ["fgsm"], "eps": [0.1], "on": ["form"]}
        replayed = pd.DataFrame(columns, columns=list(REPLAYED))
        results["form"] = replace(results["form"], replayed=replayed)
        run = make_run("A", results=[results["run"]], classes=["nought", "one"])
        deployed = Deployed("int8", run, results["form"], results["run"])
        monkeypatch.setattr(flips, "deployed_forms", lambda *_: iter([deployed]))
        return flips.Flips.from_evaluation(find_evaluations(arrange([run]))[0], limit=limit)

    return make


def test_each_flip_says_who_is_wrong_and_by_what(make_section):
    section = make_section()
    assert [(flip.title, flip.remark) for flip in section.flips] == [
        ("Example 11, one, when clean", "int8 of A takes it for nought; A is right."),
        ("Example 5, one, at eps 0.1", "FGSM: int8 of A takes it for nought; A is right."),
        ("Example 3, one, at eps 0.1", "FGSM: A takes it for nought; int8 of A is right."),
    ]
    assert [len(flip.pictures) for flip in section.flips] == [1, 2, 2]
    assert "Not shown here" not in section.statement
    assert len({picture.name for picture in section.pictures}) == len(section.pictures)


def test_what_takes_too_much_room_is_counted_and_located(make_section):
    section = make_section(limit=1500)
    assert section.left_out > 0 and len(section.flips) + section.left_out == 3
    assert f"Not shown here: {section.left_out}" in section.statement and "flipped.safetensors" in section.statement


def test_where_nothing_differs_there_is_no_section(make_section, monkeypatch):
    evaluation = make_section().evaluation
    monkeypatch.setattr(flips, "deployed_forms", lambda *_: iter([]))
    assert flips.Flips.from_evaluation(evaluation) is None
