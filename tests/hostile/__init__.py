"""Files that strangers might send: each maker writes one below a folder, says in its docstring what it is after, and returns it."""

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
