"""Choices name layers: by regular expressions, types of modules, and functions."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from robust_lowrank.errors import UserError, first_line

Choice = str | type[nn.Module] | Callable[[str, nn.Module], bool]  # a regular expression, a type, or a predicate
Choices = Choice | Sequence[Choice]


class Chosen:
    """What `exclude` or `include` names, and which of its entries have matched."""

    def __init__(self, choices: Choices, kind: str) -> None:
        self.kind = kind
        entries = list(choices) if isinstance(choices, Sequence) and not isinstance(choices, str) else [choices]
        self.entries: list[Any] = [pattern(each, kind) if isinstance(each, str) else each for each in entries]
        for each in self.entries:
            if not isinstance(each, re.Pattern) and not callable(each):
                raise UserError(f"{kind} {each!r} is no regular expression, type of module or function of a name and a module")
        self.used: set[int] = set()

    def hit(self, places: Sequence[tuple[str, nn.Module, str]], blocks: Sequence[str] = ()) -> str | None:
        """Return the first entry that matches a parameter, by a name of its module, its own, or that of one of its blocks.

        Args:
            places: the modules that have it, by name, with its name there.
        """
        first = None
        for index, entry in enumerate(self.entries):
            named = isinstance(entry, re.Pattern) and any(entry.fullmatch(block) for block in blocks)
            if named or any(self._matches(entry, *place) for place in places):
                self.used.add(index)
                first = _written(entry) if first is None else first
        return first

    @staticmethod
    def _matches(entry: Any, name: str, module: nn.Module, parameter: str) -> bool:
        if isinstance(entry, re.Pattern):
            return entry.fullmatch(name) is not None or entry.fullmatch(joined(name, parameter)) is not None
        if isinstance(entry, type):
            return isinstance(module, entry)
        try:
            return bool(entry(name, module))
        except Exception as error:  # of whatever it does
            raise UserError(f"a function of include or exclude failed at {name!r}: {first_line(error)}") from error

    def require_use(self, names: Sequence[str]) -> None:
        """Raise a `UserError` if an entry has matched nothing."""
        unused = [_written(entry) for index, entry in enumerate(self.entries) if index not in self.used]
        if unused:
            meant = next((each for each in unused if any(name.endswith(f".{each}") for name in names)), None)
            hint = "" if meant is None else rf", which names are compared with as a whole: '.*\.{meant}' is their end"
            raise UserError(f"{self.kind} {unused} matches no layer{hint}; there are: {', '.join(names)}")


def _written(entry: Any) -> str:
    return entry.pattern if isinstance(entry, re.Pattern) else getattr(entry, "__name__", repr(entry))


def pattern(text: str, kind: str) -> re.Pattern[str]:
    """Return a compiled regular expression.

    Raises:
        UserError: it is none.
    """
    try:
        return re.compile(text)
    except (re.error, TypeError) as error:
        raise UserError(f"{kind} {text!r} is not a regular expression: {error}") from error


def joined(name: str, parameter: str) -> str:
    """Return the name of a parameter of a module, which is the network itself if it has no name.

    Example:
        >>> joined("fc", "weight"), joined("", "weight")
        ('fc.weight', 'weight')
    """
    return f"{name}.{parameter}" if name else parameter
