"""Run directories are found below a directory, and each is read as far as it can be, by its records alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from robust_lowrank import records
from robust_lowrank.errors import UserError, shown
from robust_lowrank.records import ResultRecord, RunFiles, RunRecord

MOST = 10_000  # runs of a page
DEEPEST = 16  # directories within one another


@dataclass(frozen=True)
class Found:
    """A run directory, and what is known of it."""

    path: Path
    record: RunRecord | None = None  # None where it cannot be read
    condition: tuple[str, float] | None = None  # the worst-conditioned layer after the last epoch
    results: dict[str, ResultRecord] = field(default_factory=dict)  # without those that a newer one stands for
    faults: tuple[str, ...] = ()  # what cannot be read, or belongs to another network


def find(directory: Path) -> list[Found]:
    """Return the run directories below a directory, by their paths; those within runs, their forms, are left out.

    No table but that of spectra is read, and no file is held against its seal: that is for `doctor`.

    Example:
        >>> [run.path.name for run in find(Path("runs"))]  # doctest: +SKIP
        ['condlr', 'dense']

    Raises:
        UserError: it is no directory, a run itself, or has no runs or very many below it.
    """
    if not directory.is_dir():
        raise UserError(f"{shown(directory)} is no directory: name one that run directories lie in")
    if RunFiles(directory).record.is_file():
        raise UserError(f"{shown(directory)} is a run directory: name the one that it lies in, or rlr-eval show it")
    paths = []
    for path in _paths(directory):
        paths.append(path)
        if len(paths) > MOST:
            raise UserError(f"{shown(directory)} has more than {MOST:,} runs below it: name a directory with fewer")
    if not paths:
        raise UserError(f"{shown(directory)} has no run directories below it: none of its directories has a run.json")
    return [_read(path) for path in paths]


def _paths(directory: Path) -> Iterator[Path]:
    """Yield run directories in the order of their names; links are not followed."""
    for place, folders, files in os.walk(directory):
        path = Path(place)
        if RunFiles(path).record.name in files:
            folders.clear()
            yield path
        deep = len(path.relative_to(directory).parts) >= DEEPEST
        folders[:] = [] if deep else sorted(folder for folder in folders if not folder.startswith("."))


def _read(path: Path) -> Found:
    files = RunFiles(path)
    try:
        records.require_plain(path)
        record = records.read_record(files.record, RunRecord)
    except (UserError, OSError) as error:
        return Found(path, faults=(str(error),))
    faults: list[str] = []
    condition = _condition(files, faults)
    results = dict(_results(files, record, faults))
    kept = {
        name: result
        for name, result in results.items()
        if not any(records.supersedes(other, result) for each, other in results.items() if each != name)
    }
    return Found(path, record, condition, kept, tuple(faults))


def _condition(files: RunFiles, faults: list[str]) -> tuple[str, float] | None:
    if not files.spectra.is_file():
        return None
    try:
        spectra = records.read_frame(files.spectra, ("epoch", "layer", "cond"))
    except (UserError, OSError) as error:
        faults.append(str(error))
        return None
    last = spectra[spectra["epoch"] == spectra["epoch"].max()].dropna(subset="cond")
    if last.empty:
        return None
    worst = last.loc[last["cond"].idxmax()]
    return str(worst["layer"]), float(worst["cond"])


def _results(files: RunFiles, run: RunRecord, faults: list[str]) -> Iterator[tuple[str, ResultRecord]]:
    for path in sorted(files.results.glob("*/result.json")):
        try:
            record = records.read_record(path, ResultRecord)
        except (UserError, OSError) as error:
            faults.append(str(error))
            continue
        if record.hashes.get("weights") != run.hashes.get("weights"):
            faults.append(f"{path.parent} is of another network")
        else:
            yield path.parent.name, record
