"""inspect_ai keeps a log as a zip of JSON documents (.eval), or as one JSON document."""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robust_lowrank.bounds import regular_size, require_proportion
from robust_lowrank.errors import UserError, brief, first_line, shown
from robust_lowrank.logs.scores import EXAMPLES, Row
from robust_lowrank.logs.texts import DOCUMENT, decoded, parsed

CHUNK = 2**20  # bytes that are read at a time
ENTRY = b"PK\1\2"  # begins an entry of an archive's table of contents
ZSTD = 93  # its number among the ways to pack
GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}  # correct, partial, incorrect, no answer, as inspect counts them
CONVERT = "convert it once: inspect log convert FILE --to json --output-dir DIR, and give what that writes"
_WHOLE = ("summaries.json", "summary.json")
_PARTS = re.compile(r"(_journal/)?summaries/\d+\.json")
_SAMPLES = re.compile(r"samples/.+\.json")
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, OverflowError)


def archive_rows(path: Path) -> Iterator[Row]:
    """Yield a row a sample of an `.eval` file, from its summaries if it has them; nothing is unpacked to the disk.

    Raises:
        UserError: it is no such file, is damaged, packed as this Python cannot read it, or would expand to far more than it is.
    """
    where = shown(path)
    _require_few(path, where)
    try:
        with zipfile.ZipFile(path) as archive:
            for name, values in _documents(archive, where, regular_size(path)):
                yield from samples(values if isinstance(values, list) else [values], f"{where}, {brief(name)}")
    except _DAMAGE as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where} is damaged, or no log of inspect: {first_line(error)}") from error


def samples(values: Sequence[Any], where: str) -> Iterator[Row]:
    """Yield a row a sample of inspect; one whose evaluation failed has no scores.

    A scorer that gives a table of scores has a metric a key, called `SCORER/KEY`.

    Raises:
        UserError: a sample is none.
    """
    for sample in values:
        example = sample.get("id") if isinstance(sample, dict) else None
        if not isinstance(example, int | str) or isinstance(example, bool):
            raise UserError(f"{where} holds no samples of inspect: the id of one is {brief(example)}")
        scores = sample.get("scores")
        found = dict(_scores(scores if isinstance(scores, dict) else {}))
        subject = json.dumps(sample.get("target"), sort_keys=True)[:1000] if sample.get("target") else ""
        yield Row(str(example), found, str(sample.get("epoch", "")), subject)


def _scores(scores: dict[str, Any]) -> Iterator[tuple[str, object]]:
    for scorer, score in scores.items():
        value = score.get("value") if isinstance(score, dict) else None
        if isinstance(value, dict):
            yield from ((f"{scorer}/{key}", _graded(each)) for key, each in value.items())
        else:
            yield scorer, _graded(value)


def _graded(value: object) -> object:
    return GRADES.get(value, value) if isinstance(value, str) else value


def _documents(archive: zipfile.ZipFile, where: str, size: int) -> Iterator[tuple[str, Any]]:
    """Yield the documents that say how samples were scored: the summary of all, those of parts, or the samples themselves."""
    members = {member.filename: member for member in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise UserError(f"{where} holds a file twice: nobody can tell which is meant")
    whole = [members[name] for name in _WHOLE if name in members and members[name].file_size <= DOCUMENT][:1]
    parts = whole or [member for name, member in members.items() if _PARTS.fullmatch(name)]
    chosen = parts or [member for name, member in members.items() if _SAMPLES.fullmatch(name)]
    if not chosen:
        raise UserError(f"{where} is an archive, and no log of inspect: it has neither summaries nor samples")
    require_proportion(sum(member.file_size for member in chosen), size, where, CONVERT)
    known = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED)}
    for member in chosen:
        if member.compress_type not in known:
            kind = (
                "with zstd, which Python reads from 3.14 on" if member.compress_type == ZSTD else "in a way that Python cannot read"
            )
            raise UserError(f"{where} is packed {kind}: {CONVERT}")
        if member.file_size > DOCUMENT:
            raise UserError(f"{where}: {brief(member.filename)} has {member.file_size:,} bytes, and at most {DOCUMENT:,} are read")
        with archive.open(member) as file:
            place = f"{where}, {brief(member.filename)}"
            yield member.filename, parsed(decoded(file.read(DOCUMENT + 1), place), place)


def _require_few(path: Path, where: str) -> None:
    """Require that an archive, whose table of contents is read whole, holds no more files than a log of so many examples.

    Raises:
        UserError: it holds more.
    """
    found, last = 0, b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found += (last + chunk).count(ENTRY)
            last = chunk[1 - len(ENTRY) :]
    if found > 2 * EXAMPLES:
        raise UserError(f"{where} is an archive of {found:,} files, and a log has at most {2 * EXAMPLES:,}")
