"""Errors that a user can mend say what was wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Wrong use or bad input; the command line prints it without a traceback and exits with 2."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not among those known, with the nearest one suggested.

    Example:
        >>> str(unknown_name("method", "condrl", ["condlr", "dlrt"]))
        "unknown method 'condrl': did you mean 'condlr'? Known: condlr, dlrt"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {name!r}: {hint}Known: {', '.join(names)}")


class TrainingError(RuntimeError):
    """Training cannot go on, such as when the loss is no longer finite; the command line exits with 1."""
