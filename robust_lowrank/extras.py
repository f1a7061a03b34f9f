"""Packages that only an extra of this one installs: where one is missing, its first use says what to install."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from robust_lowrank.errors import UserError


@contextmanager
def needed(extra: str, by: str) -> Iterator[None]:
    """Name the extra that brings a package, where an import within the block fails.

    Example:
        >>> with needed("report", "a report"):
        ...     import altair

    Args:
        extra: its name, as `pip` is given it.
        by: what cannot be done without, as the message calls it.

    Raises:
        UserError: the package is not installed.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "robust_lowrank"):  # a defect of this package or of another, which no installation mends
            raise
        raise UserError(f"{by} needs {package}: pip install 'robust-lowrank[{extra}]'") from error


def installed(distribution: str) -> str | None:
    """Return the version of a package, None where it is not installed.

    Example:
        >>> installed("no-such-package")
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
