"""`rlr-eval doctor`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.runs import named_runs

SYMBOLS = {"pass": "[green]ok[/]", "warn": "[yellow]note[/]", "fail": "[red]BROKEN[/]"}
COLOURS = {"whole": "green", "damaged": "red"}  # others are yellow


def doctor(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN...]", help="Run directories, or a directory of them; without, the installation.", callback=named_runs
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say whether this installation is sound, or what in run directories is whole, unfinished, stale, foreign or damaged.

    Of an installation the known traps of optional packages are named with their remedies; of a run what each thing costs to make
    again. Exits with 1 if something required is broken, or a file damaged.
    """
    if runs:
        _runs(runs, json)
    else:
        _installation(json)


def _installation(json: bool) -> None:
    from robust_lowrank.cli.doctor import examine

    findings = examine()
    broken = [finding for finding in findings if finding.status == "fail"]
    if json:
        console.print_json([finding.model_dump() for finding in findings])
    else:
        table = Table("", "what", "finding", "what to do", box=None, pad_edge=False)
        for finding in findings:
            table.add_row(SYMBOLS[finding.status], *map(escape, (finding.check, finding.message, finding.remedy)))
        console.print_table(table)
        console.say(f"{len(broken)} of {len(findings)} checks found something broken" if broken else "This installation is sound.")
    if broken:
        raise typer.Exit(1)


def _runs(runs: list[Path], json: bool) -> None:
    from robust_lowrank.jobs.inventory import inventory

    found = {run: inventory(run) for run in runs}
    damaged = {run: sum(item.state == "damaged" for item in items) for run, items in found.items()}
    if json:
        console.print_json([{"run": str(run), "items": [item._asdict() for item in items]} for run, items in found.items()])
    else:
        for run, items in found.items():
            table = Table("", str(run), "finding", "took", "what to do", box=None, pad_edge=False)
            for item in items:
                state = f"[{COLOURS.get(item.state, 'yellow')}]{item.state}[/]"
                took = "" if item.seconds is None else f"{item.seconds:.1f} s"
                table.add_row(state, *map(escape, (item.name, item.finding, took, item.remedy)))
            console.print_table(table)
            console.say(f"{damaged[run]} of {len(items)} are damaged" if damaged[run] else f"{run}: nothing is damaged.")
    if any(damaged.values()):
        raise typer.Exit(1)
