"""`rlr-eval bench` and `rlr-eval demo`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import ExecutorName, ShardText

if TYPE_CHECKING:
    from robust_lowrank.jobs import Experiment
    from robust_lowrank.records import Run

Workers = Annotated[int | None, typer.Option(help="Workers; one a core without it, or with ray one a GPU.")]


def bench(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="An experiment by name ('rlr-eval list experiments') or a TOML file.")
    ],
    out: Annotated[Path | None, typer.Option(help="Directory of runs and report; reports/NAME without it.")] = None,
    executor: ExecutorName = "processes",
    workers: Workers = None,
    shard: ShardText = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files lie.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if its files are missing.")] = False,
) -> None:
    """Train, attack and compare everything that an experiment names; what is finished is not done again.

    With --shard several machines that share the directory train and attack a part of the runs each; 'status' says what is missing,
    and the same command without --shard then writes the report.
    """
    from robust_lowrank.jobs import load_experiment

    settled = load_experiment(experiment)
    if shard is None:
        _run(settled, out, executor=executor, workers=workers, data_dir=data_dir, download=download)
    else:
        _run_shard(settled, shard, out, executor=executor, workers=workers, data_dir=data_dir, download=download)


def demo(
    out: Annotated[Path | None, typer.Option(help="Directory of runs and report; reports/demo without it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and batches.")] = None,
    executor: ExecutorName = "processes",
    workers: Workers = None,
) -> None:
    """Compare six networks on digits that need no download: dense, plain low-rank, CondLR, DLRT, TDLRT and GeoLoRA.

    Trains them, attacks them with FGSM, PGD and aa-fast, and writes the report; at most two minutes on two cores.
    """
    from robust_lowrank.jobs import load_experiment
    from robust_lowrank.ranges import SEEDS

    experiment = load_experiment("demo")
    if seed is not None:
        SEEDS.require("--seed", seed)
        experiment = experiment.model_copy(update={"seeds": (seed,)})
    runs = _run(experiment, out, executor=executor, workers=workers)
    conditioned = next((run for run in runs if run.record.method == "condlr"), None)
    if conditioned is not None:
        at = shlex.quote(str(conditioned.path))
        console.say(f"Next, the rules for publishing on the same network: rlr-eval attack {at} --suite quick")


def _run(experiment: "Experiment", out: Path | None, *, executor: str, **options: Any) -> "list[Run]":
    from robust_lowrank import jobs
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.errors import TrainingError
    from robust_lowrank.reporting import overview

    with Board() as board:
        outcome = jobs.bench(experiment, out, executor=executor, command=console.command_line(), progress=board, **options)
    console.say_overview(overview(outcome.runs))
    console.say_report(outcome.page, outcome.summary)
    if outcome.failures:
        name, failure = next(iter(outcome.failures.items()))
        count = len(outcome.failures)
        raise TrainingError(f"{count} of {count + len(outcome.runs)} runs failed and are not in the report; {name}: {failure}")
    return outcome.runs


def _run_shard(experiment: "Experiment", shard: str, out: Path | None, **options: Any) -> None:
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.errors import TrainingError
    from robust_lowrank.jobs.entry import bench_shard
    from robust_lowrank.jobs.shards import Shard

    part = Shard.parse(shard)
    with Board() as board:
        done = bench_shard(experiment, part, out, command=console.command_line(), progress=board, **options)
    failures = {name: why for name, why in done.items() if why is not None}
    runs = "1 run" if len(done) == 1 else f"{len(done)} runs"
    console.say(f"Shard {part} is done, {runs}; with all of them, the same command without --shard writes the report.")
    if failures:
        name, failure = next(iter(failures.items()))
        raise TrainingError(f"{len(failures)} of {runs} failed; {name}: {failure}")
