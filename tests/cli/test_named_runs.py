"""A directory of runs stands for the runs in it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

from robust_lowrank.cli.commands.runs import named_runs

Command = Callable[..., Result]


def test_a_directory_of_runs_stands_for_its_runs(rlr_eval: Command, runs: Path) -> None:
    found = [runs / "DENSE", runs / "LOW"]
    assert named_runs([runs]) == [each for each in sorted(runs.iterdir()) if each in found]
    assert named_runs([runs / "LOW", runs / "DENSE"]) == found[::-1]
    (runs / "view.html").write_text("a page of `view`")
    assert named_runs(sorted([*found, runs / "view.html"])) == found
    listed = json.loads(rlr_eval("doctor", ".", "--json").stdout)
    assert {Path(each["run"]).name for each in listed} >= {"DENSE", "LOW"}


def test_damaged_runs_are_named_hidden_ones_and_second_names_are_not(rlr_eval: Command, runs: Path) -> None:
    (runs / ".hidden").mkdir()
    for file in (runs / "LOW").glob("*.*"):
        shutil.copy(file, runs / ".hidden")
    (runs / "latest").symlink_to(runs / "LOW")
    assert [each.name for each in named_runs([runs]) or []] == ["DENSE", "LOW"]
    (runs / "DENSE" / "run.json").unlink()
    assert [each.name for each in named_runs([runs]) or []] == ["DENSE", "LOW"]
    told = rlr_eval("doctor", ".")
    assert told.exit_code == 2 and "DENSE" in told.stderr
    views = [runs / "view.html", runs / "LOW" / "view.html"]
    assert named_runs(views) == views


def test_a_directory_without_runs_is_said_to_be_none(rlr_eval: Command, here: Path) -> None:
    (here / "empty").mkdir()
    for command in ("attack", "report", "condition", "certify", "doctor"):
        told = rlr_eval(command, "empty")
        assert told.exit_code == 2 and "is not a run directory" in told.stderr, command
    (here / "view.html").touch()
    told = rlr_eval("report", "view.html")
    assert told.exit_code == 2 and "is not a run directory" in told.stderr
