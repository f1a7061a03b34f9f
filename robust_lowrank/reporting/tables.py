"""Tables as the page and the Markdown file both show them."""

from dataclasses import dataclass, field

from robust_lowrank.records import AccuracyRecord
from robust_lowrank.reporting import formats


@dataclass(frozen=True)
class Column:
    """A column; neighbours of one `group` stand under a common heading."""

    title: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: a text, a second line, an accuracy to draw, the look of a series, an emphasis."""

    text: str
    sub: str = ""
    accuracy: AccuracyRecord | None = None
    series: str | None = None
    leads: bool = False
    status: str = ""  # of an audit: pass, warn, fail


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The headings above the columns with the number of columns that each spans; empty without any."""
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(title for title, _ in spans) else []


def accuracy_cell(accuracy: AccuracyRecord | None, *, leads: bool = False, missing: str = "–") -> Cell:
    """Return an accuracy in percent with its interval on the second line; a range where examples are unresolved."""
    if accuracy is None:
        return Cell(missing)
    interval = formats.interval(accuracy.low, accuracy.high)
    unresolved = f", {formats.count(accuracy.unresolved)} unresolved" if accuracy.unresolved else ""
    return Cell(formats.accuracy(accuracy.value, accuracy.most), interval + unresolved, accuracy=accuracy, leads=leads)
