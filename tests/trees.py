"""Directories are compared before and after."""

from pathlib import Path


def stamps(place: Path) -> dict[Path, int | None]:
    """Return everything below a directory, with the time at which each file was written last.

    A directory in which a lock has come and gone has another time, and is what it was.
    """
    return {path: None if path.is_dir() else path.lstat().st_mtime_ns for path in place.rglob("*")}
