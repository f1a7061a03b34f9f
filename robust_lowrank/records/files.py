"""Files are read with errors that name them, and replaced whole."""

import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from robust_lowrank.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which takes the place of `path` if the block ends well and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory beside `path`, which takes the place of `path` if the block ends well and vanishes if not."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=".part") as holder:
        temporary, former = Path(holder) / "new", Path(holder) / "former"
        temporary.mkdir()
        yield temporary
        if path.exists():
            path.rename(former)
        try:
            temporary.rename(path)
        except OSError:
            former.rename(path)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def text_of(record: BaseModel) -> str:
    """Return a record as it stands in its file."""
    return record.model_dump_json(indent=2) + "\n"


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON at once."""
    write_text(path, text_of(record))


def write_frame(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table as Parquet at once."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


_Record = TypeVar("_Record", bound=BaseModel)


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Read a JSON record.

    Raises:
        UserError: there is no such file, or it is not such a record.
    """
    return _read(path, lambda: kind.model_validate(json.loads(path.read_text(encoding="utf-8"))))


def read_frame(path: Path, columns: Collection[str] = ()) -> "pd.DataFrame":
    """Read a Parquet table.

    Raises:
        UserError: there is no such file, it is not a table, or it lacks one of the `columns`.
    """
    import pandas as pd

    frame = _read(path, lambda: pd.read_parquet(path))
    if lacking := [column for column in columns if column not in frame]:
        raise UserError(f"{path} has no column {lacking[0]!r}: it is another table, or was changed; make it again")
    return frame


_Read = TypeVar("_Read")


def _read(path: Path, parse: Callable[[], _Read]) -> _Read:
    try:
        return parse()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: the run stopped before writing it, or this is not a run directory") from error
    except (OSError, ValueError, ValidationError, LookupError, TypeError, AttributeError, NotImplementedError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)  # a parser stumbles over a damaged file in many ways
        raise UserError(f"{path} cannot be read: {reason}") from error
