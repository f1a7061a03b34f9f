"""The command line is read as it was given, and results are printed on stdout as lines, tables or JSON."""

import json
import math
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from robust_lowrank.errors import UserError, shown

if TYPE_CHECKING:
    import pandas as pd

    from robust_lowrank.reporting.formats.statements import Summary
    from robust_lowrank.reporting.formats.tables import Table as Overview


def command_line() -> str:
    """Return the command that makes this again, with the program's own name in place of its path.

    Raises:
        UserError: an argument is not UTF-8, as records are.
    """
    for argument in sys.argv[1:]:
        if argument != argument.encode("utf-8", "replace").decode():
            raise UserError(f"{shown(argument)} is not valid UTF-8, and records are: choose another name")
    return shlex.join(["rlr-eval", *sys.argv[1:]])


def say(text: str) -> None:
    """Print one line of the result as it is, without wrapping or markup."""
    Console(file=sys.stdout, soft_wrap=True).print(text, markup=False, highlight=False)


def mute() -> None:
    """Print nothing from now on: of several processes that a launcher has started, the first one speaks."""
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 for good


@contextmanager
def status(text: str) -> Iterator[None]:
    """Show on stderr that something goes on, as long as the block runs, if that is a terminal."""
    console = Console(stderr=True)
    with console.status(text, spinner="line") if console.is_terminal else nullcontext():
        yield


def say_overview(overview: "Overview") -> None:
    """Print the first table of a comparison report, with the intervals of accuracies below them."""
    table, group = Table(box=None, pad_edge=False), ""
    shown = len(overview.columns) - 1  # for a terminal's width without the product of condition numbers
    for column in overview.columns[:shown]:
        above = column.group if column.group != group else ""
        group = column.group
        table.add_column(escape(f"{above}\n{column.title}"), justify="right" if column.numeric else "left", max_width=16)
    for row in overview.rows:
        texts = (f"{escape(cell.text)}{'★' if cell.leads else ''}" for cell in row[:shown])
        intervals = (escape(cell.sub.partition("]")[0] + "]") if cell.accuracy else "" for cell in row[:shown])
        table.add_row(*texts)
        table.add_row(*intervals, style="dim")
    print_table(table)
    if any(cell.leads for row in overview.rows for cell in row):
        say("★ the best of its column, and what the tests cannot tell from it")


def say_report(page: Path, summary: "Summary") -> None:
    """Print a comparison's main statement, how sure it is, and where its report lies."""
    say(f"{summary.headline} {summary.evidence}".strip())
    say(f"Report: {page}")


def print_json(value: Any) -> None:
    """Print a result for machines: one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal; a file or pipe gets lines that are not cut."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console = Console(file=sys.stdout, width=200)
    console.print(table)


def rows(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return a table's rows for JSON, with null where a value is missing or not finite."""
    return [{str(key): _plain(value) for key, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, bool | int | str):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else None
