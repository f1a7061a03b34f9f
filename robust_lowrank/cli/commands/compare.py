"""`rlr-eval compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import Json
from robust_lowrank.ranges import SHIFTS

if TYPE_CHECKING:
    from robust_lowrank.logs import Paired
    from robust_lowrank.statistics import Interval


def compare(
    files: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]FILE...", help="A log a system; its kind is told by its content. Run directories too."),
    ],
    metric: Annotated[list[str] | None, typer.Option(help="The score that counts, where a log has several.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Scores from here on are right; without it, they are 0 or 1.")] = None,
    repeat: Annotated[str | None, typer.Option(help="The epoch or seed that counts, where a log has several.")] = None,
    common: Annotated[bool, typer.Option("--common", help="Compare on the examples that all logs have.")] = False,
    baseline: Annotated[str | None, typer.Option(help="Compare all systems with this one, not every two.")] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of a page with the same in other formats.")] = None,
    json: Json = False,
) -> None:
    """Compare systems by what logs say of each example: intervals, exact McNemar tests, Holm-corrected, and their power.

    Logs: CSV with the columns example and correct, samples of lm-evaluation-harness (--log_samples), logs of inspect_ai (.eval or
    JSON), a JSON document with lists of 0 and 1, or run directories.
    """
    from robust_lowrank.logs import Choice, compare, named, read_log

    SHIFTS.require("--threshold", threshold)
    choice = Choice(metric or (), threshold, repeat)
    paired = compare({name: read_log(path, choice) for name, path in named(files).items()}, baseline=baseline, common=common)
    page = None
    if out is not None:
        from robust_lowrank.reporting import paired_report

        page = paired_report(paired, out, title="Comparison of systems", command=console.command_line())
    if json:
        console.print_json(_listed(paired))
        return
    _say(paired)
    if page is not None:
        console.say(f"Report: {page}")


def _say(paired: "Paired") -> None:
    from robust_lowrank import numbers
    from robust_lowrank.logs import better, power

    systems = Table("system", "right", "accuracy, %", "Wilson 95 %", "score", "log", box=None, pad_edge=False)
    for each in paired.systems:
        accuracy = (numbers.percent(each.accuracy.value), numbers.interval(each.accuracy.low, each.accuracy.high))
        systems.add_row(escape(each.name), f"{each.correct:,} of {paired.examples:,}", *accuracy, escape(each.metric), each.kind)
    pairs = Table("compared", "points", "bootstrap 95 %", "only one right", "McNemar p", "Holm p", "", box=None, pad_edge=False)
    for test in paired.comparisons:
        difference, only = test.difference, f"{test.only_a:,} : {test.only_b:,}"
        tested = [numbers.p_value(p).removeprefix("= ") for p in (test.p, test.p_holm)]
        verdict = f"{name} is better" if (name := better(test)) else "not distinguishable"
        span = f"[{numbers.signed(difference.low)}, {numbers.signed(difference.high)}]"
        pairs.add_row(escape(f"{test.a} – {test.b}"), numbers.signed(difference.value), span, only, *tested, escape(verdict))
    for table in (systems, pairs):
        console.print_table(table)
        console.say("")
    if paired.left_out:
        console.say(f"{paired.left_out:,} examples that not all of the logs have are left out.")
    console.say(power(paired))


def _listed(paired: "Paired") -> dict[str, Any]:
    """Return a comparison as plain lists and dictionaries."""
    from robust_lowrank.logs import better

    systems = [each._asdict() | {"path": str(each.path)} | _flat("accuracy", each.accuracy) for each in paired.systems]
    comparisons = [test._asdict() | _flat("difference", test.difference) | {"better": better(test)} for test in paired.comparisons]
    return {**paired._asdict(), "systems": systems, "comparisons": comparisons}


def _flat(name: str, interval: "Interval") -> dict[str, float]:
    return {name: interval.value, "low": interval.low, "high": interval.high}
