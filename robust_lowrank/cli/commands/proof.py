"""`rlr-eval verify` and `rlr-eval forecast`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import BatchSize, DataDir, Eps, First, Json, NormName, SuiteName

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def verify(
    run: Run,
    suite: Annotated[str | None, typer.Option(help="Only the results of this suite; all without it.")] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Prove every verdict "broken" again: the stored input is within the budget, and the network gets it wrong.

    Exit 1 if a verdict cannot be proved, 2 if a result is stale.
    """
    from robust_lowrank.jobs.examination import proofs

    by_suite = proofs(run, suite, data_dir)
    failed = sum(len(proof.failed) for parts in by_suite.values() for proof in parts)
    if json:
        console.print_json({name: [proof._asdict() for proof in parts] for name, parts in by_suite.items()})
    else:
        table = Table("suite", "attack", "eps", "broken", "proved", "failed", box=None, pad_edge=False)
        for name, parts in by_suite.items():
            for proof in parts:
                numbers = ", ".join(map(str, proof.failed[:8])) + (" ..." if len(proof.failed) > 8 else "")
                table.add_row(name, proof.attack, f"{proof.eps:.4g}", str(proof.broken), str(proof.proved), numbers)
        console.print_table(table)
        console.say("every broken example is proved" if not failed else f"{failed} verdicts are not proved: attack again")
    if failed:
        raise typer.Exit(1)


def forecast(
    run: Run,
    suite: SuiteName = "standard",
    eps: Eps = None,
    norm: NormName = None,
    n: First = None,
    batch_size: BatchSize = 256,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Say what an attack will take at most, before it starts: passes, time at this machine's present speed, memory.

    It is an upper bound: examples that are broken early cost little, and those that the network gets wrong nothing.
    """
    from robust_lowrank.jobs.attack import Attack
    from robust_lowrank.jobs.examination import forecast_of

    settled = Attack.settle(suite, eps=eps, norm=norm, examples=n, batch_size=batch_size)
    cost = forecast_of(run, settled, data_dir)
    if json:
        console.print_json(cost._asdict() | {"shares": [share._asdict() for share in cost.shares]})
        return
    table = Table("attack", "eps", "passes", "time", box=None, pad_edge=False)
    for share in cost.shares:
        table.add_row(share.attack, f"{share.eps:.4g}", f"{share.passes:,}", _duration(share.seconds))
    table.add_row("together", "", f"{cost.passes:,}", _duration(cost.seconds))
    console.print_table(table)
    console.say(
        f"At most, on {cost.examples} examples of which none is broken, in one process; memory {cost.memory / 2**20:,.0f} MiB."
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
