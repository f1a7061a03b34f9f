"""A job is performed: its run trained and attacked, and the run's forms after it."""

from dataclasses import dataclass, field

from robust_lowrank.errors import TrainingError
from robust_lowrank.jobs.chain import Job, attack_run, train_run
from robust_lowrank.jobs.deploying import attack_forms
from robust_lowrank.jobs.events import Event, Report


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    results: tuple[str, ...]  # the names of the directories of its attacks' results
    failure: str | None = None  # why its training failed
    left_out: dict[str, str] = field(default_factory=dict)  # forms that were not attacked, and why


def perform(job: Job, report: Report) -> Outcome:
    """Do one job: train unless it is to be attacked as it is, then attack."""
    if job.train:
        try:
            train_run(job.config, job.out, job=job.name, command=job.command, report=report, remarks=False)
        except TrainingError as error:
            report(Event(job.name, "failed", 1, 1, note=str(error)))
            return Outcome((), str(error))
    results, left_out = [], {}
    for attack in job.attacks:
        results.append(attack_run(job, attack, report))
        left_out |= attack_forms(job, attack, results[-1], report)
    return Outcome(tuple(results), None, left_out)
