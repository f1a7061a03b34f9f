"""`rlr-eval report` and `rlr-eval condition`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.runs import Runs, named_runs
from robust_lowrank.errors import UserError

if TYPE_CHECKING:
    from robust_lowrank.records import Run

RunsOrWeights = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Run directories, or a directory of them, or files of weights (.safetensors, .pth).",
        callback=named_runs,
    ),
]
Title = Annotated[str | None, typer.Option(help="Heading of the report.")]


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="Directory of the report.")] = Path("reports/comparison"),
    title: Title = None,
) -> None:
    """Write the comparison report of several runs: a page, its numbers in other formats, and figures."""
    from robust_lowrank.records import read_run
    from robust_lowrank.reporting import comparison_report, summary

    read = [read_run(run) for run in runs]
    page = comparison_report(read, out, title=title or "Comparison of low-rank networks", command=console.command_line())
    console.say_report(page, summary(read))


def condition(
    runs: RunsOrWeights,
    out: Annotated[Path, typer.Option(help="Directory of the report.")] = Path("reports/condition"),
    title: Title = None,
    json: Annotated[bool, typer.Option("--json", help="Print the layers' last values as JSON, beside writing the report.")] = False,
) -> None:
    """Write the condition-number report: singular values, condition numbers and ranks of every layer over training.

    A file of weights needs no architecture: the layers are read off its tensors.
    """
    from robust_lowrank.records import read_run
    from robust_lowrank.reporting import condition_report

    if missing := [run for run in runs if not run.exists()]:
        raise UserError(f"{missing[0]} is not there: give run directories, or files of weights")
    read = [_weights(run) if run.is_file() else read_run(run) for run in runs]
    page = condition_report(read, out, title=title or "Conditioning of the layers", command=console.command_line())
    if not json:
        console.say(f"Report: {page}")
        return
    listed = []
    for path, run in zip(runs, read, strict=True):
        last = run.spectra[run.spectra["epoch"] == run.spectra["epoch"].max()].drop(columns="epoch")
        listed.append({"run": str(path), "label": run.record.label, "layers": console.rows(last)})
    console.print_json(listed)


def _weights(path: Path) -> "Run":
    from robust_lowrank.jobs.subjects import weights_run  # loads torch, which runs need not

    return weights_run(path)
