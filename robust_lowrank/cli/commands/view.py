"""`rlr-eval view`."""

from pathlib import Path
from typing import Annotated

import typer

from robust_lowrank.cli import console


def view(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A directory that run directories lie in, at any depth.")],
    out: Annotated[Path | None, typer.Option(help="The page; by default view.html in DIR.")] = None,
) -> None:
    """Write one page of all runs below a directory: a table to filter and to sort, and each run's details a click away.

    Runs that are damaged or not complete are listed as such. Nothing is served: the page is a file that opens without a network.
    """
    from robust_lowrank.reporting.found import find
    from robust_lowrank.reporting.view import write_view

    runs = find(directory)
    page = write_view(runs, directory, out or directory / "view.html", command=console.command_line())
    damaged = sum(run.record is None for run in runs)
    console.say(f"{len(runs):,} run{'s' if len(runs) > 1 else ''}{f', {damaged} damaged' if damaged else ''}")
    console.say(f"Page: {page}")
