"""Makers of files that strangers might send: each is refused in one to three lines, and leaves no marker."""

from pathlib import Path


def marker(folder: Path) -> Path:
    """Return the file that appears if anything in a hostile file is executed."""
    return folder / "EXECUTED"


class Code:
    """Makes the marker if it is ever unpickled."""

    def __init__(self, folder: Path) -> None:
        self.path = marker(folder)

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)
