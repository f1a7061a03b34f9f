"""Run directories are named one by one, or by the directory that holds them."""

from pathlib import Path
from typing import Annotated

import typer

VIEW = "view.html"  # what `rlr-eval view` writes among the runs


def named_runs(paths: list[Path] | None) -> list[Path] | None:
    """Return the runs that paths stand for: a directory of runs for these, the page of `view` among others for none.

    Example:
        >>> named_runs([Path("runs")])  # doctest: +SKIP
        [PosixPath('runs/condlr'), PosixPath('runs/dense')]
    """
    if paths is None:
        return None
    return [run for path in paths if path.name != VIEW or len(paths) == 1 for run in _within(path)]


def _within(path: Path) -> list[Path]:
    from robust_lowrank.records import RunFiles

    if not path.is_dir() or RunFiles(path).record.exists():
        return [path]
    return sorted(each for each in path.glob("*") if RunFiles(each).record.is_file()) or [path]


Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or one that holds some.", callback=named_runs)]
