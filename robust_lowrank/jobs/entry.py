"""These functions do what `train`, `bench` and `report` do, in Python."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from robust_lowrank import records
from robust_lowrank.errors import TrainingError
from robust_lowrank.jobs.chain import Job, Location, experiment_jobs, train_run
from robust_lowrank.jobs.dispatch import perform_all
from robust_lowrank.jobs.events import Report, quiet, reading, remark
from robust_lowrank.jobs.experiment import Experiment, load_experiment
from robust_lowrank.jobs.launched import own_directory
from robust_lowrank.jobs.shards import Shard
from robust_lowrank.jobs.transfer import matrix, one_of_each
from robust_lowrank.records import Run
from robust_lowrank.training import TrainConfig, load_config, parse_config, read_trained, record_costs
from robust_lowrank.training.naming import run_name

if TYPE_CHECKING:
    from robust_lowrank.reporting.formats.statements import Summary


class Bench(NamedTuple):
    """An experiment's outcome: its report's page, the runs in it, their summary, and the trainings that failed."""

    page: Path
    runs: list[Run]
    summary: "Summary"
    failures: dict[str, str]  # why, by the job's name


def train(
    config: TrainConfig | Mapping[str, Any] | Path | str,
    out: Path | str | None = None,
    *,
    command: str = "",
    progress: Report = quiet,
) -> Run:
    """Train one network into a run directory, as `rlr-eval train` does.

    Where `torch.distributed` is set up, all its processes call this alike: each takes a share of every batch.

    Example:
        >>> run = rlr.train({"method": {"name": "condlr", "tau": 0.1}}, "runs/condlr")  # doctest: +SKIP

    Args:
        config: what to train: a configuration, its tables as nested values, or a TOML file.
        out: the run directory; runs/NAME without it.
        command: what `run.json` names as the command.
        progress: called with events.

    Raises:
        UserError: the configuration is wrong, data are missing, or `out` holds something else.
        TrainingError: the loss or the logits are no longer finite.
    """
    if isinstance(config, Path | str):
        config = load_config(config)
    elif not isinstance(config, TrainConfig):
        config = parse_config(config, source="config")
    directory = Path("runs") / run_name(config) if out is None else Path(out)
    with own_directory(directory) as place:
        train_run(config, place, job=directory.name, command=command, report=progress)
        if place == directory:
            record_costs(place, config.training.torch_device)
        return read_trained(place)


def bench(
    experiment: Experiment | Path | str,
    out: Path | str | None = None,
    *,
    executor: str = "processes",
    workers: int | None = None,
    data_dir: Path | str | None = None,
    download: bool = False,
    command: str = "",
    progress: Report = quiet,
) -> Bench:
    """Train, attack and compare everything that an experiment names, as `rlr-eval bench` does; what is finished is kept.

    With more than one worker the calling program is imported again in each: call this below `if __name__ == "__main__":`.

    Example:
        >>> page = rlr.bench("experiments/demo.toml", workers=1).page  # doctest: +SKIP

    Args:
        experiment: what to do, or its TOML file.
        out: the directory of runs and report; reports/NAME without it.
        executor: where the work runs: a module of `robust_lowrank.jobs.executors`.
        workers: how many jobs run side by side; as the executor sees fit without it.
        data_dir: where the data set's files lie.
        download: fetch them if they are missing.
        command: what the records name as the command.
        progress: called with events.

    Raises:
        UserError: the experiment is wrong, data are missing, or a directory holds something else.
        TrainingError: no training came to an end.
    """
    from robust_lowrank.reporting import comparison_report, summary

    experiment = experiment if isinstance(experiment, Experiment) else load_experiment(experiment)
    directory = directory_of(experiment, out)
    jobs = _jobs(experiment, directory, data_dir=data_dir, download=download, command=command, progress=progress)
    with records.writing(*(job.out for job in jobs)):
        outcomes = perform_all(jobs, executor=executor, workers=workers, report=progress)
        done = {job.name: outcome for job, outcome in zip(jobs, outcomes, strict=True)}
        trained = [job for job in jobs if done[job.name].failure is None]
        for job in trained:  # now that no other training runs beside it
            record_costs(job.out, job.config.training.torch_device)
        failures = {name: outcome.failure for name, outcome in done.items() if outcome.failure is not None}
        crossed = one_of_each(trained)
        for number, attack in enumerate(jobs[0].attacks if len(crossed) > 1 else ()):
            matrix(crossed, attack, [done[job.name].results[number] for job in crossed], progress)
    if not trained:
        name, failure = next(iter(failures.items()))
        raise TrainingError(f"no run of {experiment.name} came to an end; {name}: {failure}")
    runs = [records.read_run(job.out) for job in trained]
    page = comparison_report(runs, directory, title=f"Comparison of low-rank networks: {experiment.name}", command=command)
    return Bench(page, runs, summary(runs), failures)


def bench_shard(
    experiment: Experiment | Path | str,
    shard: Shard,
    out: Path | str | None = None,
    *,
    executor: str = "processes",
    workers: int | None = None,
    data_dir: Path | str | None = None,
    download: bool = False,
    command: str = "",
    progress: Report = quiet,
) -> dict[str, str | None]:
    """Train and attack a part of an experiment's runs, and return by their names why their trainings have failed, if they have.

    Each of several machines that share the directory takes a shard; `bench` then finds all done and writes the report.

    Example:
        >>> bench_shard("experiments/demo.toml", Shard.parse("1/6"), workers=1)  # doctest: +SKIP
        {'dense-seed0': None}

    Raises:
        UserError: as `bench`.
    """
    experiment = experiment if isinstance(experiment, Experiment) else load_experiment(experiment)
    directory = directory_of(experiment, out)
    jobs = shard.share(_jobs(experiment, directory, data_dir=data_dir, download=download, command=command, progress=progress))
    with records.writing(*(job.out for job in jobs)):
        outcomes = perform_all(jobs, executor=executor, workers=workers, report=progress) if jobs else []
    return {job.name: outcome.failure for job, outcome in zip(jobs, outcomes, strict=True)}


def directory_of(experiment: Experiment, out: Path | str | None) -> Path:
    """Return the directory of an experiment's runs and report."""
    return Path("reports") / experiment.name if out is None else Path(out)


def _jobs(
    experiment: Experiment, directory: Path, *, data_dir: Path | str | None, download: bool, command: str, progress: Report
) -> list[Job]:
    place = Location(data_dir=data_dir).of(experiment.data)
    place = place.model_copy(update={"download": download or place.download})
    if download:
        place.load()
    images = place.describe(reading(experiment.name, progress))
    remark(experiment.name, images.remarks, progress)
    return experiment_jobs(experiment.model_copy(update={"data": place}), images, directory, command=command)


def report(
    runs: Sequence[Run | Path | str],
    out: Path | str = "reports/comparison",
    *,
    title: str = "Comparison of low-rank networks",
    command: str = "",
) -> Path:
    """Write the comparison report of several runs, as `rlr-eval report` does, and return its page.

    Example:
        >>> rlr.report(["runs/condlr", "runs/dense"], "reports/mine")  # doctest: +SKIP

    Args:
        runs: run directories, or runs that were read.
        out: the directory of the report.
        title: its heading.
        command: what it names as the command.

    Raises:
        UserError: one is not a run directory, or none is given.
    """
    from robust_lowrank.reporting import comparison_report

    read = [run if isinstance(run, Run) else records.read_run(Path(run)) for run in runs]
    return comparison_report(read, Path(out), title=title, command=command)
