"""JSON files are read within bounds, and errors name every field that is wrong."""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from robust_lowrank.bounds import read_bounded
from robust_lowrank.errors import UserError, first_line, shown
from robust_lowrank.records.documents import SCHEMA_VERSION

LARGEST = 32 * 2**20  # bytes of a record
DEEPEST = 32  # tables and lists within one another
_LINES = 3  # of a message
_VALUE = 60  # characters of a value in it

_Record = TypeVar("_Record", bound=BaseModel)


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Read a JSON record.

    Raises:
        UserError: there is no such file, or it is not such a record; the message names the fields that are wrong.
    """
    values = read_json(path)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UserError(
            f"{path} was written by a newer version of robust-lowrank (schema {version}, this one knows {SCHEMA_VERSION}): "
            "upgrade with pip install -U robust-lowrank"
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path} cannot be read: {faults(error)}") from error


def faults(error: ValidationError) -> str:
    """Return in words, within three lines, which fields of a record are wrong."""
    found = [_fault(each) for each in error.errors(include_url=False)]
    if len(found) > _LINES:
        found = [*found[: _LINES - 1], f"and {len(found) - _LINES + 1} more"]
    return "\n".join(found)


def read_json(path: Path) -> Any:
    """Read a JSON file as nested values: bounded in size and depth, of finite numbers and of text that can be written.

    Example:
        >>> read_json(Path("runs/condlr/run.json"))["method"]  # doctest: +SKIP
        'condlr'

    Raises:
        UserError: there is no such file, or it is another one.
    """
    require_there(path)
    content = read_bounded(path, most=LARGEST)
    try:
        values = json.loads(content.decode("utf-8"), parse_constant=_refuse, parse_int=_whole)
        _check(values)
    except RecursionError as error:
        raise UserError(f"{path} cannot be read: it has tables within more than {DEEPEST} others") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: it is no UTF-8") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    return values


def require_there(path: Path) -> None:
    """Require that something is where a file of a run directory is due.

    Raises:
        UserError: nothing is.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: the run stopped before writing it, or this is not a run directory")


def _fault(error: Any) -> str:
    parts = [part for part in error["loc"] if part != "[key]"]
    place = shown("".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix("."))[:_VALUE]
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else re.sub(r"^\w+ should", "should", error["msg"])
    match error["type"]:
        case "missing":
            return f"{place} is missing"
        case "extra_forbidden":
            return f"{place} is no field of it"
    value = error["input"]
    if isinstance(value, dict | list):
        return f"{place}: {shown(reason)}" if place else shown(reason)
    text = repr(value)
    return f"{place} = {shown(text if len(text) <= _VALUE else text[:_VALUE] + '…')} {shown(reason)}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise ValueError("a number of it is too large")
    return int(digits)


def _check(values: Any) -> None:
    """Require values that can be written and counted with.

    Raises:
        RecursionError: they are nested too deep.
        ValueError: a number is too large, or a text is no Unicode.
    """
    level = [values]
    for _ in range(DEEPEST):
        below = []
        for value in level:
            if isinstance(value, dict):
                below += [*value, *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str):
                if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
                    raise ValueError(f"{shown(value)[:_VALUE]!r} is no text")
            elif (isinstance(value, int) and abs(value) >= 2**64) or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError("a number of it is too large")
        if not below:
            return
        level = below
    raise RecursionError
