"""Results say in a terminal and in a notebook what they hold, as tables of few lines."""

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

LONGEST = 60  # rows of a table that is printed; the rest is counted


class Shown(NamedTuple):
    """A title, a table below it, the first column text and the others numbers, and lines that end it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def cut(self) -> "Shown":
        """Return it with so many rows as are read, and a line that counts the others."""
        if len(self.rows) <= LONGEST:
            return self
        return self._replace(rows=self.rows[:LONGEST], notes=[f"and {len(self.rows) - LONGEST} more", *self.notes])


class Showable(ABC):
    """A result that prints as a table, and is one in notebooks.

    Example:
        >>> class Length(Showable):
        ...     def shown(self) -> Shown:
        ...         return Shown("A road", ["part", "km"], [["first", "12.0"], ["second", "3.5"]])
        >>> print(Length())
        A road
        part      km
        first   12.0
        second   3.5
    """

    @abstractmethod
    def shown(self) -> Shown:
        """Return what there is to see."""

    def __str__(self) -> str:
        """Return it for a terminal."""
        title, columns, rows, notes = self.shown().cut()
        cells = [[" ".join(cell.splitlines()) for cell in row] for row in (columns, *rows)] if rows else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

        def line(row: Sequence[str]) -> str:
            sides = ("<", *">" * (len(row) - 1))
            return "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()

        return "\n".join([title, *map(line, cells), *notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return it for a notebook."""
        title, columns, rows, notes = self.shown().cut()

        def row(cells: Sequence[str], tag: str) -> str:
            sides = ("left", *["right"] * (len(cells) - 1))
            pairs = zip(cells, sides, strict=True)
            inner = "".join(f'<{tag} style="text-align:{side}">{html.escape(cell)}</{tag}>' for cell, side in pairs)
            return f"<tr>{inner}</tr>"

        head, body = row(columns, "th"), "".join(row(cells, "td") for cells in rows)
        ends = "<br>".join(map(html.escape, notes))
        return f"<p>{html.escape(title)}</p><table><thead>{head}</thead><tbody>{body}</tbody></table><p>{ends}</p>"
