"""`rlr-eval status` and `rlr-eval retry`."""

import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import Json
from robust_lowrank.errors import UserError

if TYPE_CHECKING:
    from robust_lowrank.jobs.standing import Standing

COLOURS = {"done": "green", "unreadable": "red"}  # others are yellow
SUBMIT = "sbatch"

ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment by name or a TOML file.")]
Out = Annotated[Path | None, typer.Option(help="Directory of its runs; reports/NAME without it.")]


def status(
    experiment: ExperimentName,
    out: Out = None,
    shards: Annotated[int | None, typer.Option(help="Into how many it is divided: says which are not done.")] = None,
    json: Json = False,
) -> None:
    """Say how far an experiment is: which of its runs are trained and attacked, and which shards have something left to do."""
    from robust_lowrank.jobs.shards import written

    found, missing = _standing(experiment, out, shards)
    left = [each for each in found if each.state != "done"]
    if json:
        listed = [each._asdict() for each in found]
        console.print_json({"runs": listed, "left": len(left)} | ({} if missing is None else {"missing_shards": missing}))
        return
    table = Table("", "run", "epochs", "attacks", "finding", box=None, pad_edge=False)
    for each in found:
        state = f"[{COLOURS.get(each.state, 'yellow')}]{each.state}[/]"
        counts = (f"{done} of {of}" for done, of in (each.epochs, each.attacks))
        table.add_row(state, *map(escape, (each.name, *counts, each.finding)))
    console.print_table(table)
    console.say(f"{len(found) - len(left)} of {len(found)} runs are done.")
    if missing:
        console.say(f"Shards that are not done: {written(missing)} of {shards}")


def retry(
    experiment: ExperimentName,
    script: Annotated[list[str], typer.Argument(metavar="SCRIPT...", help="What sbatch is to submit, with its arguments.")],
    shards: Annotated[int, typer.Option(help="Into how many the experiment is divided.")],
    out: Out = None,
) -> None:
    """Submit the shards of an experiment that are not done to Slurm once more, as one job array.

    The script does its shard: rlr-eval bench EXPERIMENT --shard $SLURM_ARRAY_TASK_ID/N.
    """
    from robust_lowrank.jobs.shards import written

    _, missing = _standing(experiment, out, shards)
    if not missing:
        console.say("Every shard is done: the same 'bench' without --shard writes the report.")
        return
    command = [SUBMIT, f"--array={written(missing)}", *script]
    if shutil.which(SUBMIT) is None:
        raise UserError(f"there is no {SUBMIT} on this machine, which submits to Slurm; where there is one: {shlex.join(command)}")
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} ended with {done.returncode}: see what it said")


def _standing(experiment: str, out: Path | None, shards: int | None) -> "tuple[list[Standing], list[int] | None]":
    from robust_lowrank.jobs import load_experiment
    from robust_lowrank.jobs.entry import directory_of
    from robust_lowrank.jobs.shards import MOST
    from robust_lowrank.jobs.standing import missing_shards, standing
    from robust_lowrank.ranges import Range

    Range(1, MOST).require("--shards", shards)
    settled = load_experiment(experiment)
    found = standing(settled, directory_of(settled, out))
    return found, None if shards is None else missing_shards(found, shards)
