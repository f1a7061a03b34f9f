"""Tables of TOML files become validated values, with errors that name file, key and remedy."""

import codecs
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from robust_lowrank.bounds import read_bounded
from robust_lowrank.errors import UNSEEN, UserError, brief, first_line, shown, unknown_name

DEPTH = 32  # of dotted keys: tomllib takes time and memory that grow with the square of it
DIGITS = 4300  # of the longest number that Python reads
SAID = 160  # characters of a message of tomllib, which may hold the file's own
WINDOWS = r"write a Windows path in 'single quotes', or with slashes: 'C:\data' or 'C:/data'"
_CHAIN = re.compile(rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{DEPTH},}}""")


class Table(BaseModel):
    """A table of a TOML file: no unknown keys, no values of another type, no change after validation."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)
    entry: ClassVar[str] = ".{}"  # how errors write the number of a list's entry
    place: ClassVar[str] = " in [{}]"  # and the table, and key, of an unknown name


_Table = TypeVar("_Table", bound=Table)


def read_table(path: Path, kind: type[_Table]) -> _Table:
    """Read a TOML file.

    Raises:
        UserError: the file is missing, is not TOML, or has a wrong key, type or value.
    """
    return parse_table(read_values(path), kind, source=str(path))


def read_values(path: Path) -> dict[str, Any]:
    """Read the nested values of a TOML file, which may begin with a byte order mark.

    Raises:
        UserError: the file is missing, large or no file, or is not TOML in UTF-8.
    """
    text = _text(path, read_bounded(path))
    if chain := _CHAIN.search(text):
        raise UserError(f"{shown(path)} is not a TOML file: the key {brief(chain[0])} is nested more than {DEPTH} deep")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise UserError(f"{shown(path)} is not a TOML file: its values are nested too deep") from error
    except ValueError as error:
        raise UserError(f"{shown(path)} is not a TOML file: {_said(text, first_line(error))}") from error


def _text(path: Path, content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4]:
        raise UserError(f"{shown(path)} is in UTF-16: save it as UTF-8 (in PowerShell: Set-Content -Encoding utf8)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{shown(path)} is not in UTF-8: the byte 0x{content[error.start]:02x} of line {line} is of another encoding, "
            "such as Latin-1; save it as UTF-8"
        ) from error


def _said(text: str, message: str) -> str:
    """Return a message of tomllib in words that help."""
    if "integer string conversion" in message:
        return f"a number in it has more than {DIGITS:,} digits"
    number = re.search(r"at line (\d+)", message)
    line = "" if number is None else text.split("\n")[int(number[1]) - 1]
    cut = message if len(message) <= SAID else f"{message[: SAID // 2]}...{message[-SAID // 2 :]}"
    return shown(cut) + (f"\n{WINDOWS}" if "\\" in line else "")


def _path_text(path: str) -> str:
    if path != path.encode("utf-8", "replace").decode():
        raise UserError(f"{brief(path)} is not valid UTF-8, and records are: rename it")
    if unseen := [char for char in path if unicodedata.category(char) in UNSEEN]:
        raise UserError(f"{brief(path)} has the character {unseen[0]!r}, which no path should have: {WINDOWS}")
    return path


PathText = Annotated[str, AfterValidator(_path_text)]  # the name of a file, or of what may lie in one


def parse_table(values: Mapping[str, Any], kind: type[_Table], *, source: str, **settled: Any) -> _Table:
    """Return a table from nested values and those `settled` elsewhere; errors call the place of the former `source`.

    Raises:
        UserError: a key, type or value is wrong.
    """
    try:
        return kind.model_validate({**settled, **values})
    except ValidationError as error:
        errors = error.errors(include_url=False)
        telling = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # a misspelt key, not its absence
        raise UserError(f"{source}: {_message(telling, kind, settled)}") from error


def shipped_files(name: str, beside: str) -> Path:
    """Return a directory of TOML files: `name` inside the installed package, or `beside` it in a source tree."""
    package = Path(str(resources.files("robust_lowrank")))
    installed = package / name
    return installed if installed.is_dir() else package.parent / beside


def _message(error: Any, kind: type[Table], settled: Mapping[str, Any]) -> str:
    path, there = _locate(error["loc"], kind)
    tables = _tables(there)
    is_list = get_origin(there) is tuple and bool(tables)
    singular = path.rpartition(".")[2].replace("ies", "ys").removesuffix("s")
    begin = f"begin each {singular} with [[{path}]]"
    match error["type"]:
        case "extra_forbidden":
            key, place = error["loc"][-1], kind.place if path else ""
            keys = set(tables[0].model_fields) - (set() if path else set(settled))
            return f"{unknown_name('key', str(key), keys)}{place.format(path, f'.{key}')}"
        case "missing":
            return f"{path} is missing: {begin}" if is_list else f"{path} is missing"
        case "tuple_type" if is_list:
            return f"{path} is a list: {begin}"
        case "union_tag_invalid" | "union_tag_not_found":
            field = error["ctx"]["discriminator"].strip("'")
            tags = [table.model_fields[field].default for table in tables]
            if "tag" in error["ctx"]:
                return f"{unknown_name(field, error['ctx']['tag'], tags)}{kind.place.format(path, '')}"
            return f"{path} does not say which {field} it is: set {field} to one of {', '.join(tags)}"
        case "value_error":
            reason = str(error["ctx"]["error"])
        case "too_short" | "too_long":
            reason = error["msg"]
        case _:
            reason = f"{error['msg'].replace('valid tuple', 'list')}, not {brief(error['input'])}"
    return f"{path}: {reason}" if path else reason


def _locate(location: tuple[int | str, ...], kind: type[Table]) -> tuple[str, Any]:
    """Return the path of an error's location, without the tags of unions, and the type of what stands there."""
    path, there = "", kind
    for part in location:
        tables = _tables(there)
        field = next((table.model_fields[part] for table in tables if part in table.model_fields), None)
        if isinstance(part, int):
            path += kind.entry.format(part)
        elif field is not None:
            path, there = f"{path}.{part}", field.annotation
        elif get_origin(there) is dict:
            path, there = f"{path}.{part}", get_args(there)[1]
        else:  # the tag of a union, or a key that no table has
            there = next((table for table in tables if part in [f.default for f in table.model_fields.values()]), there)
    return path.removeprefix("."), there


def _tables(annotation: Any) -> list[type[BaseModel]]:
    """Return the tables that values of a type can be or contain."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]
