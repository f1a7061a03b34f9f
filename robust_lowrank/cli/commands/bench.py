"""`rlr-eval bench` and `rlr-eval demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.invocation import command_line

if TYPE_CHECKING:
    from robust_lowrank.training import Experiment

Workers = Annotated[int | None, typer.Option(help="Processes; one a core without it.")]


def bench(
    experiment: Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="Methods, ranks, seeds and attacks.")],
    out: Annotated[Path | None, typer.Option(help="Directory of runs and report; reports/NAME without it.")] = None,
    workers: Workers = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files lie.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if its files are missing.")] = False,
) -> None:
    """Train, attack and compare everything that an experiment's file names; what is finished is not done again."""
    from robust_lowrank.training import load_experiment

    _run(load_experiment(experiment), out, workers=workers, data_dir=data_dir, download=download)


def demo(
    out: Annotated[Path | None, typer.Option(help="Directory of runs and report; reports/demo without it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and batches.")] = None,
    workers: Workers = None,
) -> None:
    """Compare six networks on digits that need no download: dense, plain low-rank, CondLR, DLRT, TDLRT and GeoLoRA.

    Trains them, attacks them with FGSM, PGD and AutoAttack, and writes the report; at most two minutes on two cores.
    """
    from robust_lowrank.cli.experiments import shipped

    experiment = shipped("demo")
    if seed is not None:
        experiment = experiment.model_copy(update={"seeds": (seed,)})
    _run(experiment, out, workers=workers)


def _run(
    experiment: "Experiment", out: Path | None, *, workers: int | None, data_dir: Path | None = None, download: bool = False
) -> None:
    from robust_lowrank import data
    from robust_lowrank.cli.parallel import perform_all
    from robust_lowrank.cli.pipeline import experiment_jobs, with_data
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.cli.transfer import matrix
    from robust_lowrank.errors import TrainingError
    from robust_lowrank.records import read_run
    from robust_lowrank.reporting import comparison_report, summary

    directory = out or Path("reports") / experiment.name
    command = command_line()
    jobs = [with_data(job, data_dir, download) for job in experiment_jobs(experiment, directory, command=command)]
    if download:
        data.load(experiment.data.name, data_dir=jobs[0].config.data.data_dir, download=True)
    with Board() as board:
        failures = perform_all(jobs, workers=workers, report=board)
    trained = [job for job, failure in zip(jobs, failures, strict=True) if failure is None]
    for attack in jobs[0].attacks if len(trained) > 1 else ():
        matrix(trained, attack)
    runs = [read_run(job.out) for job in trained]
    failed = [f"{job.name}: {failure}" for job, failure in zip(jobs, failures, strict=True) if failure is not None]
    if not runs:
        raise TrainingError(f"no run of {experiment.name} came to an end; {failed[0]}")
    page = comparison_report(runs, directory, title=f"Comparison of low-rank networks: {experiment.name}", command=command)
    console.say_report(page, summary(runs))
    if failed:
        raise TrainingError(f"{len(failed)} of {len(jobs)} runs failed and are not in the report; {failed[0]}")
