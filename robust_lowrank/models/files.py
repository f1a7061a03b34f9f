"""Files of weights and programs are checked before anything is loaded from them."""

import hashlib
import struct
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath
from typing import Literal

from robust_lowrank.containers import refuse_others
from robust_lowrank.errors import UserError

Contents = Literal["TorchScript", "exported program", "weights", "unknown"]
LARGEST_DIRECTORY = 8 << 20  # bytes in which an archive lists what it holds
TAIL = 65_536 + 128  # bytes at the end of an archive, among which it says where its directory is


def require_file(path: Path, what: str) -> Path:
    """Return the path if a file is there, and none of another kind in its place.

    Raises:
        UserError: nothing is there, or a directory, or a file that holds something else.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory: give the file of the {what}")
    if not path.is_file():
        raise UserError(f"{path} does not exist: give the file of the {what}")
    refuse_others(path, what)
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(path: Path) -> Contents:
    """Return what a torch archive holds, by the names in it; formats that are no archive are "unknown".

    Raises:
        UserError: its directory is larger than that of any network.
    """
    names = [member.filename.partition("/")[2] for member in members(path)]
    if "constants.pkl" in names:
        return "TorchScript"
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return "exported program"
    return "weights" if "data.pkl" in names else "unknown"


def members(path: Path) -> list[zipfile.ZipInfo]:
    """Return what is in a zip file, none if it is not one.

    Raises:
        UserError: its directory is larger than that of any network.
    """
    if not zipfile.is_zipfile(path):
        return []
    if _directory_size(path) > LARGEST_DIRECTORY:
        raise UserError(f"{path} is an archive of more files than any network has")
    try:
        with zipfile.ZipFile(path) as file:
            return file.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return []


def stored_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return by name what is in a torch archive, which stores everything as it is: nothing becomes larger when it is read.

    Raises:
        UserError: something is compressed, declared twice or in no place within the archive, or all is larger than the file.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    folded: set[str] = set()
    for member in members(path):
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size or member.flag_bits & 1:
            raise UserError(f"{path} is a compressed archive, as torch writes none: unpack it and pack it without compression")
        if not _is_inside(member.filename) or member.filename.casefold() in folded:
            raise UserError(f"{path} is an archive with the name {member.filename[:80]!r}, as torch writes none: refused")
        found[member.filename] = member
        folded.add(member.filename.casefold())
    if sum(member.file_size for member in found.values()) > path.stat().st_size:
        raise UserError(f"{path} is an archive that declares more bytes than it has: refused")
    return found


def _is_inside(name: str) -> bool:
    """Return whether a name in an archive is a plain path within it."""
    parts = PurePosixPath(name).parts
    seen = not any(unicodedata.category(char).startswith("C") for char in name)
    return seen and "\\" not in name and not name.startswith("/") and ".." not in parts and bool(parts)


def _directory_size(path: Path) -> int:
    """Return the size of a zip file's directory, as its end says."""
    with path.open("rb") as file:
        file.seek(-min(TAIL, path.stat().st_size), 2)
        tail = file.read()
    end, large = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    sizes = [0]
    if 0 <= end <= len(tail) - 16:
        (size,) = struct.unpack_from("<L", tail, end + 12)
        sizes.append(0 if size == 0xFFFF_FFFF else size)
    if 0 <= large <= len(tail) - 48:
        sizes += struct.unpack_from("<Q", tail, large + 40)
    return max(sizes)
