"""A directory of runs stands for the runs in it."""

from collections.abc import Callable
from pathlib import Path

from typer.testing import Result

Command = Callable[..., Result]


def test_a_directory_of_runs_stands_for_its_runs(rlr_eval: Command, runs: Path) -> None:
    attack = ("attack", ".", "--suite", "quick", "--eps", "0.1", "--n", 8)
    assert rlr_eval(*attack).exit_code == 0
    assert all((runs / name / "results" / "quick").is_dir() for name in ("LOW", "DENSE"))
    assert rlr_eval("view", ".").exit_code == 0
    assert (runs / "view.html").is_file()
    shown = rlr_eval("report", *sorted(runs.glob("*")), "--out", "reports")
    assert shown.exit_code == 0, shown.stderr
    assert rlr_eval("doctor", ".").exit_code == 0


def test_a_directory_without_runs_is_said_to_be_none(rlr_eval: Command, here: Path) -> None:
    (here / "empty").mkdir()
    for command in ("attack", "report", "condition", "certify", "doctor"):
        told = rlr_eval(command, "empty")
        assert told.exit_code == 2 and "is not a run directory" in told.stderr, command
    (here / "view.html").touch()
    told = rlr_eval("report", "view.html")
    assert told.exit_code == 2 and "is not a run directory" in told.stderr
