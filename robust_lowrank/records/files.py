"""Files are replaced whole."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

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
