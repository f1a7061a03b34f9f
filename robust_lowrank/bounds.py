"""What a file holds is bounded by what it is before it is read: a regular file, of a size that fits its kind and this machine."""

import os
import stat
from pathlib import Path

from robust_lowrank.errors import UserError, shown

CONFIGURATION = 2**20  # bytes of a file that people write
RATIO, FREE = 64, 2**27  # an archive may expand so many times, and to so many bytes in any case

_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def regular_size(path: Path) -> int:
    """Return the number of bytes of a regular file, which is not opened for it.

    Raises:
        UserError: there is none, or what is there is a directory, a pipe, a socket or a device.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL byte
        raise UserError(f"{shown(path)} is no path: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
        raise UserError(f"{shown(path)} is a {kind}, where a file is due")
    return status.st_size


def read_bounded(path: Path, *, most: int = CONFIGURATION) -> bytes:
    """Return the bytes of a regular file that has no more than `most` of them.

    Example:
        >>> read_bounded(Path("/dev/zero"))
        Traceback (most recent call last):
        robust_lowrank.errors.UserError: /dev/zero is a device, where a file is due

    Raises:
        UserError: it is no such file, larger, or cannot be read.
    """
    size = regular_size(path)
    if size <= most:
        try:
            with path.open("rb") as file:
                content = file.read(most + 1)  # files of /proc say that they have no bytes
        except OSError as error:
            raise UserError(f"{shown(path)} cannot be read: {error.strerror}") from error
        if len(content) <= most:
            return content
        size = len(content)
    raise UserError(f"{shown(path)} has {size:,} bytes or more, and a file of its kind has at most {most:,}: name another")


def require_proportion(expanded: int, packed: int, what: str, remedy: str) -> None:
    """Make sure that what a file expands to stands in a proportion to its own size.

    Raises:
        UserError: it does not, as in a decompression bomb.
    """
    if expanded > max(FREE, RATIO * packed):
        raise UserError(
            f"{what} would take {expanded / 2**20:,.0f} MiB of memory, {expanded // max(packed, 1):,} times its size, "
            f"as a decompression bomb does: {remedy}"
        )


def require_memory(size: int, what: str) -> None:
    """Make sure that data fit into the memory that this process can have.

    Raises:
        UserError: they do not.
    """
    available = available_memory()
    if available is not None and size > available:
        raise UserError(f"{what} would take {size / 2**30:,.1f} GiB, and {available / 2**30:,.1f} GiB of memory are free here")


def available_memory() -> int | None:
    """Return how many bytes this process may still take, by the system, its control group and its limits; None if nobody says."""
    limits = [limit for limit in (_installed(), _free(), _of_group(), _of_process()) if limit is not None]
    return min(limits, default=None)


def _installed() -> int | None:
    if not hasattr(os, "sysconf"):  # Windows does not tell
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free() -> int | None:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None


def _of_group() -> int | None:
    most, used = (_lines(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return max(int(most[0]) - int(used[0]), 0) if most and used and most[0].isdecimal() else None


def _of_process() -> int | None:
    """Return what is left of an address-space limit, as batch schedulers set it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _lines("/proc/self/statm")
    if limit == resource.RLIM_INFINITY:
        return None
    return max(limit - (int(used[0].split()[0]) * os.sysconf("SC_PAGE_SIZE") if used else 0), 0)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
