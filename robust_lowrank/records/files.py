"""Files are replaced whole."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    import pandas as pd


PART = ".rlr-part"  # ends the name of what is not yet whole


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which takes the place of `path` if the block ends well and vanishes if not.

    It is on the disk before it does, so that a crash of the machine leaves the old file or the new one.

    Raises:
        OSError: it cannot be written, whatever the writer in the block has made of that.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    os.close(handle)
    temporary = Path(name)
    try:
        with _system_errors(path):
            yield temporary
        temporary.chmod(0o644)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield a new directory beside `path`, which takes the place of `path` if the block ends well and vanishes if not."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", suffix=PART, ignore_cleanup_errors=True) as holder:
        temporary, former = Path(holder) / "new", Path(holder) / "former"
        temporary.mkdir()
        with _system_errors(path):
            yield temporary
        for written in (*temporary.rglob("*"), temporary):
            _sync(written)
        if path.exists():
            path.rename(former)
        try:
            temporary.rename(path)
        except OSError:
            former.rename(path)
            raise
        _sync(path.parent)


def clear(part: Path) -> None:
    """Remove what a killed writer left half-written; a directory that it had only taken out of its place comes back."""
    former, place = part / "former", part.parent / part.name[1:].rpartition(PART)[0].rpartition(".")[0]
    if former.is_dir() and not place.exists():
        former.rename(place)
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part)
    else:
        part.unlink(missing_ok=True)


@contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turn what libraries make of an error of the system back into that error."""
    try:
        yield
    except Exception as error:
        told = None if isinstance(error, OSError) and error.errno else re.search(r"\(os error (\d+)\)", str(error))
        if told is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error


def _sync(path: Path) -> None:
    """Have a file or a directory on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # directories cannot be opened there
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
