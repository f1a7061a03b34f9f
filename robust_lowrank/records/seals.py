"""A seal shows that a record, or a file beside it, was changed after it was written.

It is no signature: who edits a file can seal it again. What it names is then held against the network itself (`evaluation.verify`).
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from robust_lowrank.records.documents import SealedRecord
from robust_lowrank.records.files import text_of, write_record

_Sealed = TypeVar("_Sealed", bound=SealedRecord)


def write_sealed(path: Path, record: _Sealed, files: Iterable[Path]) -> _Sealed:
    """Write a record as JSON at once, sealed together with those of the files beside it that are there, and return it."""
    digests = {file.name: _digest(file) for file in files if file.is_file()}
    record = record.model_copy(update={"files": digests, "seal": ""})
    record = record.model_copy(update={"seal": _text_digest(text_of(record))})
    write_record(path, record)
    return record


def broken_seals(path: Path, record: SealedRecord, beside: Iterable[Path] = ()) -> list[str]:
    """Return in words what is not as it was written: the record in the file `path`, and each file beside it.

    Args:
        beside: files that would have been sealed with it if they had been there.

    Example:
        >>> broken_seals(Path("runs/condlr/run.json"), record)  # doctest: +SKIP
        []
    """
    if not record.seal:
        return [f"{path} has no seal: it was edited, or is older than seals; make it again"]
    faults = []
    if _text_digest(_unsealed(path.read_bytes().decode(), record.seal)) != record.seal:
        faults.append(f"{path} is not as it was written")
    faults += [
        f"{file} has come since {path.name} was written" for file in beside if file.is_file() and file.name not in record.files
    ]
    for name, digest in record.files.items():
        file = path.parent / name
        if not file.is_file():
            faults.append(f"{file} is missing")
        elif _digest(file) != digest:
            faults.append(f"{file} is not as it was written")
    return faults


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _unsealed(text: str, seal: str) -> str:
    """Return a record's text as it was before it was sealed: every byte counts, and what a later version adds does not."""
    before, mark, after = text.rpartition(f'"seal": "{seal}"')
    return f'{before}"seal": ""{after}' if mark else text


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
