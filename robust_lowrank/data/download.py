"""Data sets are fetched through torchvision; errors say what to do otherwise."""

import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path

from robust_lowrank.errors import UserError


def download_with(name: str, fetch: Callable[[], object]) -> None:
    """Run a torchvision download, its messages kept off standard output.

    Raises:
        UserError: it failed, for example without a network.
    """
    try:
        with redirect_stdout(sys.stderr):
            fetch()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{name} could not be downloaded: {error}\n"
            "Get the files by other means and point --data-dir (in Python data_dir) at them"
        ) from error


def nothing_found(name: str, data_dir: Path, files: str, folders: Sequence[Path]) -> UserError:
    """Return the error for a data directory without the files: which were looked for, where, and what to do."""
    places = ", ".join(str(folder) for folder in folders)
    return UserError(
        f"{name} is not in {data_dir}: looked for {files}\nin {places}\n"
        "Point --data-dir (in Python data_dir) at the files, or fetch them with --download (download=True)"
    )
