"""An experiment stands somewhere: which of its runs are trained and attacked, as records say, and which shards are left."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.chain import Job, planned_jobs
from robust_lowrank.jobs.experiment import Experiment
from robust_lowrank.jobs.shards import Shard
from robust_lowrank.records import ResultRecord, RunFiles, RunRecord

State = Literal["done", "trained", "training", "not begun", "unreadable"]


class Standing(NamedTuple):
    """How far a run is."""

    name: str
    state: State
    epochs: tuple[int, int]  # done, and of how many
    attacks: tuple[int, int]
    finding: str = ""  # who writes there now, or what is wrong


def standing(experiment: Experiment, out: Path) -> list[Standing]:
    """Return how far each run of an experiment is; no image is read, and no network loaded.

    Example:
        >>> standing(load_experiment("demo"), Path("reports/demo"))[0].state  # doctest: +SKIP
        'done'

    Raises:
        UserError: a suite is unknown.
    """
    return [_standing(job) for job in planned_jobs(experiment, out)]


def missing_shards(found: Sequence[Standing], of: int) -> list[int]:
    """Return the numbers of the shards in which something is left to do."""
    numbers = range(1, of + 1)
    return [number for number in numbers if any(each.state != "done" for each in Shard(number, of).share(found))]


def _standing(job: Job) -> Standing:
    files, of, attacks = RunFiles(job.out), job.config.training.epochs, len(job.attacks)
    finding = f"written by {holder}" if (holder := records.holder_of(job.out)) else ""
    if not files.record.is_file():
        return Standing(job.name, "not begun", (0, of), (0, attacks), finding)
    try:
        record = records.read_record(files.record, RunRecord)
    except UserError as error:
        return Standing(job.name, "unreadable", (0, of), (0, attacks), str(error))
    if record.status != "complete":
        return Standing(job.name, "training", (record.epochs_done, of), (0, attacks), finding)
    done = sum(_is_done(job, attack, record) for attack in job.attacks)
    state: State = "done" if done == attacks else "trained"
    return Standing(job.name, state, (record.epochs_done, record.epochs_done), (done, attacks), finding)


def _is_done(job: Job, attack: Attack, run: RunRecord) -> bool:
    """Return whether there is a result of the attack on this network; on which images it is, `bench` looks at."""
    files = RunFiles(job.out)
    wanted = {float(eps) for kind in attack.suite.attacks for eps in attack.suite.radii(kind)}
    for each in map(files.result, files.existing_results(attack.directory)):
        try:
            record = records.read_record(each.record, ResultRecord)
        except UserError:
            continue
        of_this = record.hashes.get("weights") == run.hashes.get("weights") and record.norm == attack.suite.norm
        examples = record.accuracies[0].total if record.accuracies else 0
        enough = attack.examples is None or examples == attack.examples
        if of_this and enough and wanted <= set(record.eps) and not any(entry.unresolved for entry in record.accuracies):
            return True
    return False
