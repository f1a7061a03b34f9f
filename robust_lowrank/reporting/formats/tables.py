"""Tables have the form that the page and the Markdown file both show."""

import math
from dataclasses import dataclass, field

from robust_lowrank import numbers
from robust_lowrank.records import AccuracyRecord


@dataclass(frozen=True)
class Column:
    """A column; neighbours of one `group` stand under a common heading; one about a `series` comes and goes with it."""

    title: str
    group: str = ""
    numeric: bool = True
    series: str | None = None


def words(*titles: str, group: str = "") -> tuple[Column, ...]:
    """Return columns of words under a common heading."""
    return tuple(Column(title, group, numeric=False) for title in titles)


def numeric(*titles: str, group: str = "") -> tuple[Column, ...]:
    """Return columns of numbers under a common heading."""
    return tuple(Column(title, group) for title in titles)


@dataclass(frozen=True)
class Cell:
    """A cell: a text, a second line, an accuracy to draw, the look of a series, an emphasis.

    `value` is the number behind the text, by which a reader sorts; an accuracy has its own. A row is shown as long as all
    series are that its first cell names, as its `series` or in `concerns`.
    """

    text: str
    sub: str = ""
    accuracy: AccuracyRecord | None = None
    series: str | None = None
    leads: bool = False
    status: str = ""  # of an audit: pass, warn, fail
    value: float | None = None
    concerns: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        """The number behind the text as JavaScript reads it; empty without one."""
        number = self.accuracy.value if self.accuracy else self.value
        if number is None or math.isnan(number):
            return ""
        return repr(float(number)).replace("inf", "Infinity")

    @property
    def counts(self) -> str:
        """The counts behind an accuracy; empty without one."""
        if self.accuracy is None:
            return ""
        return f"{numbers.count(self.accuracy.correct)} of {numbers.count(self.accuracy.total)} correct{_unresolved(self.accuracy)}"


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its heading; one about a `series` comes and goes with it."""

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = field(default=())
    series: str | None = None

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
    """Return an accuracy in percent with its interval and what a sample bounds below; a range where examples are unresolved."""
    if accuracy is None:
        return Cell(missing)
    interval = numbers.interval(accuracy.low, accuracy.high) + _unresolved(accuracy) + _in_full(accuracy)
    return Cell(numbers.accuracy(accuracy.value, accuracy.most), interval, accuracy=accuracy, leads=leads)


def mean_cell(value: float, most: float, low: float, high: float) -> Cell:
    """Return a mean accuracy in percent, or its range up to `most`, with its interval on the second line."""
    return Cell(numbers.accuracy(value, most), numbers.interval(low, high), value=value)


def quantity_cell(value: float, sub: str = "") -> Cell:
    """Return a positive number to three significant digits."""
    return Cell(numbers.quantity(value), sub, value=value)


def count_cell(value: int, sub: str = "") -> Cell:
    """Return a count with thousands separated."""
    return Cell(numbers.count(value), sub, value=value)


def percent_cell(fraction: float | None, sub: str = "") -> Cell:
    """Return a fraction in percent; a dash for none."""
    return Cell("–") if fraction is None else Cell(numbers.percent(fraction), sub, value=fraction)


def _in_full(accuracy: AccuracyRecord) -> str:
    return "" if accuracy.least is None else f", in full ≥ {numbers.percent(accuracy.least)}"


def _unresolved(accuracy: AccuracyRecord) -> str:
    return f", {numbers.count(accuracy.unresolved)} unresolved" if accuracy.unresolved else ""
