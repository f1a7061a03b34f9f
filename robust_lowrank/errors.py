"""Errors that a user can mend say what was wrong, where, and what to do."""

import difflib
import functools
import reprlib
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

_Function = TypeVar("_Function", bound=Callable[..., Any])


UNSEEN = ("Cc", "Cn", "Cs", "Zl", "Zp")  # categories of Unicode: controls, no characters, halves of some, ends of lines
LONGEST_LINE = 400  # characters of another library's message
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they change the direction of what follows
BRIEF = 88  # characters of a value in a message


class UserError(ValueError):
    """Wrong use or bad input; the command line prints it without a traceback and exits with 2."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not among those known, with the nearest one suggested.

    Example:
        >>> str(unknown_name("method", "condrl", ["condlr", "dlrt"]))
        "unknown method 'condrl': did you mean 'condlr'? Known: condlr, dlrt"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name[:BRIEF], names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return UserError(f"unknown {kind} {brief(name)}: {hint}Known: {', '.join(names)}")


def shown(name: object) -> str:
    r"""Return a name that others gave, of a file or a class, as it can be shown in one line: what could not be seen is escaped.

    Example:
        >>> shown("two\nlines")
        'two\\nlines'
    """

    def escaped(char: str) -> str:
        return char.encode("unicode_escape").decode() if unicodedata.category(char) in UNSEEN or char in TURNING else char

    return "".join(map(escaped, str(name)))


class _Brief(reprlib.Repr):
    """A `repr` that is cut, for values of any length, depth and number of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = BRIEF
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        """Return an integer, or how long it is."""
        return repr(x) if x.bit_length() <= 4 * BRIEF else f"an integer of {x.bit_length():,} bits"


_BRIEF = _Brief()


def brief(value: object) -> str:
    """Return a value that others gave as it stands in an error's message, no longer than about a line.

    Example:
        >>> brief(0.5), brief([1, "two"]), brief(10**5000)
        ('0.5', "[1, 'two']", 'an integer of 16,610 bits')
    """
    return _BRIEF.repr(value)


def renamed(**names: str) -> Callable[[_Function], _Function]:
    """Return a decorator by which a function that is given an argument under its old name says the new one."""

    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def called(*arguments: Any, **options: Any) -> Any:
            for old in names.keys() & options.keys():
                raise TypeError(f"{old} is called {names[old]} now: give {names[old]}={options[old]!r}")
            return function(*arguments, **options)

        return called  # pyright: ignore[reportReturnType]

    return decorate


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, cut where it is very long, or the name of its class if it has none."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return shown(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ...")


class TrainingError(RuntimeError):
    """Training cannot go on, such as when the loss is no longer finite; the command line exits with 1."""
