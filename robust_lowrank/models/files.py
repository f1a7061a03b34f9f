"""Files of weights and programs are checked before anything is loaded from them."""

import hashlib
import zipfile
from pathlib import Path
from typing import Literal

from robust_lowrank.errors import UserError

Contents = Literal["TorchScript", "exported program", "weights", "unknown"]


def require_file(path: Path, what: str) -> Path:
    """Return the path if a file is there.

    Raises:
        UserError: nothing is there, or a directory.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory: give the file of the {what}")
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the file of the {what}")
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(path: Path) -> Contents:
    """Return what a torch archive holds, by the names in it; formats that are no archive are "unknown"."""
    names = [name.partition("/")[2] for name in names_inside(path)]
    if "constants.pkl" in names:
        return "TorchScript"
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return "exported program"
    return "weights" if "data.pkl" in names else "unknown"


def names_inside(path: Path) -> list[str]:
    """Return the names in a zip file, none if it is not one."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.namelist()
    except (zipfile.BadZipFile, OSError):
        return []
