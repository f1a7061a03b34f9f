"""Tables of TOML files become validated values, with errors that name file, key and remedy."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from robust_lowrank.errors import UserError, unknown_name


class Table(BaseModel):
    """A table of a TOML file: no unknown keys, no values of another type, no change after validation."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


_Table = TypeVar("_Table", bound=Table)


def read_table(path: Path, kind: type[_Table]) -> _Table:
    """Read a TOML file.

    Raises:
        UserError: the file is missing, is not TOML, or has a wrong key, type or value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    return parse_table(values, kind, source=str(path))


def parse_table(values: Mapping[str, Any], kind: type[_Table], *, source: str) -> _Table:
    """Return a table from nested values; errors call the place that they come from `source`.

    Raises:
        UserError: a key, type or value is wrong.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        telling = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # a misspelt key, not its absence
        raise UserError(f"{source}: {_message(telling, kind)}") from error


def _message(error: Any, kind: type[BaseModel]) -> str:
    path, table = _locate(error["loc"], kind)
    match error["type"]:
        case "extra_forbidden":
            where = f" in [{path}]" if path else ""
            return f"{unknown_name('key', str(error['loc'][-1]), table.model_fields)}{where}"
        case "missing":
            return f"{path} is missing"
        case "value_error":
            reason = str(error["ctx"]["error"])
        case _:
            reason = f"{error['msg']}, not {error['input']!r}"
    return f"{path}: {reason}" if path else reason


def _locate(location: tuple[int | str, ...], table: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Return the dotted path of an error's location, without pydantic's type tags, and the innermost table on it."""
    path = []
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
        elif part in table.model_fields:
            path.append(part)
            annotation = table.model_fields[part].annotation
            candidates = (annotation, *get_args(annotation))
            table = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), table)
    return ".".join(path), table
