"""Run directories are named one by one, or by the directory that holds them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from robust_lowrank.records import RunFiles

VIEW = "view.html"  # what `rlr-eval view` writes among the runs


def named_runs(paths: list[Path] | None) -> list[Path] | None:
    """Return the runs that paths stand for: a directory of runs for these, the page of `view` among others for none.

    Example:
        >>> named_runs([Path("runs")])  # doctest: +SKIP
        [PosixPath('runs/condlr'), PosixPath('runs/dense')]
    """
    if paths is None:
        return None
    return [run for path in paths if path.name != VIEW for run in _within(path)] or paths


def _within(path: Path) -> list[Path]:
    """Return what looks like a run in a directory that is none, damaged ones too: they are to be named, not passed over."""
    from robust_lowrank.records import RunFiles

    if not path.is_dir() or RunFiles(path).record.exists():
        return [path]
    names = [each for each in sorted(path.glob("[!.]*")) if any(file.exists() for file in _of_a_run(RunFiles(each)))]
    return list({each.resolve(): each for each in reversed(names)}.values())[::-1] or [path]


def _of_a_run(files: "RunFiles") -> tuple[Path, ...]:
    return files.record, files.metrics, files.spectra


Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or one that holds some.", callback=named_runs)]
