"""`rlr-eval attack`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console


class Norm(StrEnum):
    """The norms of threat models."""

    Linf = "Linf"
    L2 = "L2"


class Executor(StrEnum):
    """Where the work runs."""

    local = "local"


def attack(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    suite: Annotated[str, typer.Option(help="A suite by name ('rlr-eval list suites') or a TOML file.")] = "standard",
    eps: Annotated[
        list[str] | None, typer.Option(help="Budget, such as 0.1 or 8/255; may be given several times. The suite's own without it.")
    ] = None,
    norm: Annotated[Norm | None, typer.Option(help="The suite's own without it.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Attack the first so many test images; all without it.")] = None,
    executor: Annotated[Executor, typer.Option(help="Where the work runs: in processes of this machine.")] = Executor.local,
    workers: Annotated[int | None, typer.Option(help="Processes; one a core without it, for several runs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples at a time.")] = 250,
    seed: Annotated[int, typer.Option(help="Seed of all noise.")] = 0,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files lie; as in training without it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the results' records as JSON.")] = False,
) -> None:
    """Attack trained networks with a suite, and store verdicts, accuracies and audit below RUN/results.

    A stored result with the same weights, images and attack is kept.
    """
    from robust_lowrank.cli.parallel import perform_all
    from robust_lowrank.cli.pipeline import Attack, stored_job, with_data
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.records import read_run

    settled = Attack.settle(suite, eps=eps, norm=norm and norm.value, examples=n, seed=seed, batch_size=batch_size)
    jobs = [with_data(stored_job(run, [settled]), data_dir, download=False) for run in runs]
    with Board() as board:
        perform_all(jobs, workers=workers, report=board)
    done = [read_run(run) for run in runs]
    results = [run.results[settled.directory].record for run in done]
    if json:
        rows = zip(runs, done, results, strict=True)
        console.print_json(
            [{"run": str(path), "label": run.record.label, "result": result.model_dump()} for path, run, result in rows]
        )
        return
    table = Table("network", "attack", "eps", "accuracy", "interval", box=None, pad_edge=False)
    for run, result in zip(done, results, strict=True):
        for entry in result.accuracies:
            budget = f"{result.norm} {entry.eps:.4g}" if entry.eps else ""
            accuracy = f"{entry.value:.1%}" + (f" to {entry.most:.1%}" if entry.unresolved else "")
            table.add_row(escape(run.record.label), entry.attack, budget, accuracy, f"{entry.low:.1%} to {entry.high:.1%}")
    console.print_table(table)
    for run, result in zip(done, results, strict=True):
        for finding in result.audit:
            if finding.status != "pass":
                remedy = f" {finding.remedy}" if finding.remedy else ""
                console.say(f"{run.record.label}, audit {finding.status}: {finding.check}: {finding.message}{remedy}")
