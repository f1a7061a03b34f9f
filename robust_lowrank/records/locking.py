"""A directory is locked while it is written to: two processes never write into one at once."""

import contextlib
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from robust_lowrank.errors import UserError, shown
from robust_lowrank.records.documents import now
from robust_lowrank.records.files import PART, clear, write_text

LOCK, HOLDER = ".lock", ".lock-holder"
PATIENCE = 10  # seconds that one who shares waits for others who but look
SHARE = "-share"  # of locks, after those who add to a directory side by side
SHOWN = 200  # characters of a command
PLACES = (  # of a run or a report, that are looked through for what killed writers left
    "",
    "figures/",
    "resume/",
    "certificates/",
    "results/*/",
    "results/*/units/",
    "forms/*/",
    "forms/*/results/*/",
    "forms/*/results/*/units/",
)


class Holder(BaseModel, extra="forbid"):
    """Who holds a lock."""

    pid: int
    host: str
    since: str
    command: str


@contextmanager
def writing(*directories: Path) -> Iterator[None]:
    """Lock directories for a while, and clear away what killed writers have left half-written in them.

    A lock ends with its process, however that ends. Directories that are not there are made, and vanish again if nothing comes in.

    Example:
        >>> with writing(Path("/tmp/rlr-example")):
        ...     sorted(path.name for path in Path("/tmp/rlr-example").iterdir())
        ['.lock', '.lock-holder']

    Raises:
        UserError: another process holds one; it is named.
    """
    with ExitStack() as stack:
        for directory in sorted({directory.resolve() for directory in directories}):
            stack.enter_context(_one(directory))
        yield


@contextmanager
def sharing(name: str, *directories: Path) -> Iterator[None]:
    """Lock directories for one of several processes that only add files of different names, such as the shard 3 of 16.

    While one of them is there nobody else writes into the directory; a second one of the same name neither.

    Example:
        >>> with sharing("3-of-16", Path("/tmp/rlr-example")):
        ...     sorted(path.name for path in Path("/tmp/rlr-example").iterdir())
        ['.lock-holder-share-3-of-16', '.lock-share-3-of-16']

    Raises:
        UserError: another process holds one; it is named.
    """
    with ExitStack() as stack:
        for directory in sorted({directory.resolve() for directory in directories}):
            mine = directory / f"{LOCK}{SHARE}-{name}"
            stack.enter_context(_share(mine))
            with _acquired(FileLock(directory / LOCK, timeout=PATIENCE), directory / HOLDER):  # each says so, and then looks
                try:
                    _require_no_shares(directory, but=mine)
                except UserError:
                    continue
                for path in leftovers(directory):
                    clear(path)
        yield


def holder_of(directory: Path) -> str:
    """Return who writes to a directory now, in words; nothing if nobody does, as far as it can be seen."""
    return _who(directory / HOLDER) if (directory / HOLDER).is_file() else ""


def is_vacant(directory: Path) -> bool:
    """Return whether a directory is not there or holds nothing but a lock."""
    return not directory.is_dir() or all(entry.name.startswith(LOCK) for entry in directory.iterdir())


def leftovers(directory: Path) -> list[Path]:
    """Return what killed writers have left half-written in a run directory or a report."""
    return sorted(path for place in PLACES for path in directory.glob(f"{place}.*{PART}"))


@contextmanager
def _one(directory: Path) -> Iterator[None]:
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{shown(directory)} is a file, where a directory is due: choose another place")
    made = list(_lacking(directory))
    directory.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(directory / LOCK, timeout=0), directory / HOLDER
    try:
        with _acquired(lock, holder):
            _require_no_shares(directory)
            for path in leftovers(directory):
                clear(path)
            yield
    finally:
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()


def _share(lock: Path) -> AbstractContextManager[None]:
    return _acquired(FileLock(lock, timeout=0), lock.with_name(lock.name.replace(LOCK, HOLDER, 1)))


def _require_no_shares(directory: Path, but: Path | None = None) -> None:
    """Require that nobody who shares a directory is there; what is left of those who were killed goes."""
    for share in directory.glob(f"{LOCK}{SHARE}-*"):
        if share != but:
            with _share(share):
                pass


@contextmanager
def _acquired(lock: FileLock, holder: Path) -> Iterator[None]:
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{shown(holder.parent)} is being written by {_who(holder)}: wait until it has ended, or stop it"
        ) from error
    try:
        mine = Holder(
            pid=os.getpid(),
            host=platform.node(),
            since=now(),
            command=shown(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))[:300],
        )
        write_text(holder, mine.model_dump_json())
        yield
    finally:
        for path in (holder, Path(lock.lock_file)):  # as long as the lock is held, which nobody can then take from a lost file
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        lock.release()


def _who(holder: Path) -> str:
    try:
        found = Holder.model_validate_json(holder.read_bytes()[:4000])
    except (OSError, ValidationError):
        return "another process"
    return f"process {found.pid} on {shown(found.host)} since {shown(found.since)} ({shown(found.command)[:SHOWN]})"


def _lacking(directory: Path) -> Iterator[Path]:
    """Yield the directories that have to be made, the innermost first."""
    while not directory.exists():
        yield directory
        directory = directory.parent
