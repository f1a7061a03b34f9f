"""`rlr-eval doctor`."""

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console

SYMBOLS = {"pass": "[green]ok[/]", "warn": "[yellow]note[/]", "fail": "[red]BROKEN[/]"}


def doctor(json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False) -> None:
    """Say whether this installation is sound, and name the known traps of optional packages with their remedies.

    Exits with 1 if something required is broken; notes about optional packages do not count as broken.
    """
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
