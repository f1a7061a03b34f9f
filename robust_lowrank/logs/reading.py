"""A log is told by what it holds, not by its name, and is read as data alone."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from robust_lowrank.errors import UserError, brief, shown
from robust_lowrank.logs import csv_files, documents, inspect_logs, lm_eval, runs
from robust_lowrank.logs.scores import Choice, Row, settle
from robust_lowrank.logs.texts import lines, parsed, require_size
from robust_lowrank.records import RunFiles

_HEAD = 64  # bytes by which a file is told


class Log(NamedTuple):
    """One system's verdicts, from one file."""

    path: Path
    kind: str  # "csv", "lm-eval", "inspect", "lists" or "run"
    metric: str
    right: dict[str, bool]  # by example
    subjects: dict[str, str]  # what is asked under an example's name, where the log says it
    unscored: int  # examples without a score, as where their evaluation failed
    sha256: str  # of the file; of a run directory the hash of the weights that its record names


def read_log(path: Path, choice: Choice | None = None) -> Log:
    """Read results of examples: a CSV file, samples of lm-eval, a log of inspect, a JSON document of verdicts, or a run directory.

    Example:
        >>> log = read_log(Path("samples_gsm8k.jsonl"), Choice(metrics=["exact_match,strict-match"]))  # doctest: +SKIP
        >>> log.kind, log.right["0"]  # doctest: +SKIP
        ('lm-eval', True)

    Raises:
        UserError: it is none of these, is damaged, or it is not clear which verdict of an example is meant.
    """
    choice = choice or Choice()
    if path.is_dir():
        kind, rows, digest = "run", _run(path, choice), _weights(path)
    else:
        digest = _sha256(path)
        kind, rows = _told(path)
    return Log(path, kind, *settle(rows, shown(path), choice), digest)


def named(arguments: Sequence[str]) -> dict[str, Path]:
    """Return files by the names of their systems: `NAME=FILE`, or the file's name without its ending.

    Where two of these are the same, files are called by their paths.

    Example:
        >>> named(["runs/a.csv", "ours=runs/b.csv"])
        {'a': PosixPath('runs/a.csv'), 'ours': PosixPath('runs/b.csv')}

    Raises:
        UserError: a name stands for two files, or is none.
    """
    pairs = [("", text) if Path(text).exists() or "=" not in text else tuple(text.split("=", 1)) for text in arguments]
    stems = Counter(_stem(Path(file)) for given, file in pairs if not given.strip())
    found: dict[str, Path] = {}
    for given, file in pairs:
        name = shown(given.strip() or (stem if stems[stem := _stem(Path(file))] == 1 else file))[:200]
        if name in found:
            raise UserError(f"{brief(name)} stands for two files: call them by names of their own, NAME=FILE")
        found[name] = Path(file)
    return found


def _stem(path: Path) -> str:
    return path.resolve().name if path.is_dir() else path.stem


def _run(path: Path, choice: Choice) -> Iterator[Row]:
    if not RunFiles(path).record.is_file():
        raise UserError(f"{shown(path)} is a directory, and no run directory: give its files, such as {shown(path / '*')}")
    return runs.rows(path, choice.metrics)


def _weights(path: Path) -> str:
    from robust_lowrank.records import RunRecord, read_record

    return read_record(RunFiles(path).record, RunRecord).hashes.get("weights", "")


def _told(path: Path) -> tuple[str, Iterable[Row]]:
    """Return of which kind a file is, and its rows."""
    with path.open("rb") as file:
        head = file.read(_HEAD).removeprefix(b"\xef\xbb\xbf")
    begin = head.lstrip()
    if head.startswith(b"PK\3\4"):
        return "inspect", inspect_logs.archive_rows(path)
    if head.startswith(b"PAR1"):
        raise UserError(f"{shown(path)} is a table of Parquet: give the run directory that it is of, or write it as CSV")
    if begin.startswith(b"{") and (samples := _lines(path)):
        return "lm-eval", lm_eval.rows(samples)
    if begin.startswith((b"{", b"[")):
        return documents.rows(path)
    return "csv", csv_files.rows(path)


def _lines(path: Path) -> Iterator[tuple[str, Any]] | None:
    """Return the JSON objects of a file that has one a line, with their places; None if it is another file."""
    _, first = next(lines(path))
    try:
        sample = parsed(first, shown(path))
    except UserError:
        return None
    if not isinstance(sample, dict) or lm_eval.DOCUMENT not in sample:
        return None
    places = ((f"{shown(path)}, line {number}", text) for number, text in lines(path))
    return ((place, parsed(text, place)) for place, text in places)


def _sha256(path: Path) -> str:
    require_size(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
