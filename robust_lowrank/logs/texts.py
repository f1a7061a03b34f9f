"""Text files of strangers are read line by line, and JSON documents whole, within bounds."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robust_lowrank.bounds import read_bounded, regular_size
from robust_lowrank.errors import UserError, first_line, shown

FILE = 2**31  # bytes of a file that is read line by line
LINE = 4 * 2**20  # bytes of a line
DOCUMENT = 32 * 2**20  # bytes of a JSON document
TABLES = 4_000_000  # tables and lists in it, each of which takes many times its two brackets


def require_size(path: Path) -> None:
    """Require a regular file that is no larger than a log is.

    Raises:
        UserError: it is another.
    """
    if (size := regular_size(path)) > FILE:
        raise UserError(
            f"{shown(path)} has {size:,} bytes, and a log has at most {FILE:,}: keep what says how examples were scored"
        )


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 text that are not blank, with their numbers from 1.

    Raises:
        UserError: it is no regular file, very large, no UTF-8, or a line is very long.
    """
    where = shown(path)
    require_size(path)
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                raise UserError(f"{where}, line {number}: it has more than {LINE:,} bytes, as no line of a log has")
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise UserError(f"{where} is in UTF-16: save it as UTF-8 (in PowerShell: Set-Content -Encoding utf8)")
            text = decoded(line, f"{where}, line {number}")
            if text.strip():
                yield number, text


def decoded(content: bytes, where: str) -> str:
    """Return bytes as text, without a byte order mark.

    Raises:
        UserError: they are no UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: it is no text in UTF-8, at the byte 0x{content[error.start]:02x}") from error


def parsed(text: str, where: str) -> Any:
    """Return the values of a JSON text; NaN and infinities, which Python writes, are numbers.

    Raises:
        UserError: it is no JSON, is nested very deep, or has very many tables and lists.
    """
    if text.count("[") + text.count("{") > TABLES:
        raise UserError(f"{where} cannot be read: it has more than {TABLES:,} tables and lists")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{where} cannot be read: its values are nested too deep") from error
    except ValueError as error:
        raise UserError(f"{where} cannot be read as JSON: {first_line(error)}") from error


def read_document(path: Path) -> Any:
    """Return the values of a JSON file.

    Raises:
        UserError: it is no regular file, large, or no JSON in UTF-8.
    """
    where = shown(path)
    if (size := regular_size(path)) > DOCUMENT:
        raise UserError(
            f"{where} has {size:,} bytes, and a JSON document here has at most {DOCUMENT:,}\n"
            "A log of inspect: inspect log convert FILE --to eval --output-dir DIR, and give what that writes"
        )
    return parsed(decoded(read_bounded(path, most=DOCUMENT), where), where)
