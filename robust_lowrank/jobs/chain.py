"""A job trains and attacks one run directory, and reuses what is finished."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from robust_lowrank import data, evaluation, numbers, records, training
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.events import Event, Report, quiet, reading, remark
from robust_lowrank.jobs.experiment import Experiment
from robust_lowrank.jobs.placing import Place, place_result
from robust_lowrank.jobs.subjects import Foreign, Subject, network, stored_config, trained

SCALE = 1000  # steps of a bar for work that is measured as a fraction


@dataclass(frozen=True)
class Job:
    """A run directory, how to train it unless it is there, and the attacks on it."""

    name: str
    out: Path
    config: training.TrainConfig
    attacks: tuple[Attack, ...]
    command: str  # that run.json shall name
    train: bool = True  # False: attack it as it is
    foreign: Foreign | None = None  # a network that was not trained here, in place of the configuration's

    def units(self, attack: Attack) -> Path:
        """Return the directory of an attack's finished units, which its results share."""
        return records.RunFiles(self.out).result(attack.directory).units


def experiment_jobs(experiment: Experiment, images: data.Description, out: Path, *, command: str) -> list[Job]:
    """Return the jobs of an experiment on such images, one a run, below `out`/runs.

    Raises:
        UserError: a suite is unknown, or a budget is out of range for these images.
    """
    jobs = planned_jobs(experiment, out, command=command)
    for attack in jobs[0].attacks:
        attack.check_budgets(images.input_shape)
    return jobs


def planned_jobs(experiment: Experiment, out: Path, *, command: str = "") -> list[Job]:
    """Return the same jobs without a look at the images.

    Raises:
        UserError: a suite is unknown.
    """
    attacks = tuple(
        Attack.settle(entry.suite, eps=entry.eps, norm=entry.norm, examples=entry.examples, trust_code=True)
        for entry in experiment.attacks
    )
    if repeated := {a.directory for a in attacks if sum(b.directory == a.directory for b in attacks) > 1}:
        raise UserError(f"{experiment.name}: suite {repeated.pop()} stands there twice with one norm: give it several eps instead")
    jobs = []
    for name, config in experiment.runs():
        deployed = [experiment.forms(entry.suite, config.method.name) for entry in experiment.attacks]
        count = experiment.deploy.examples if experiment.deploy else None
        mine = tuple(replace(attack, forms=each, form_examples=count) for attack, each in zip(attacks, deployed, strict=True))
        jobs.append(Job(name, out / "runs" / name, config, mine, command))
    return jobs


def stored_job(run_dir: Path, attacks: Sequence[Attack]) -> Job:
    """Return the job that puts attacks on a run directory.

    Raises:
        UserError: it is not a complete run directory, or a budget is out of range for its images.
    """
    record, config = stored_config(run_dir)
    for attack in attacks:
        attack.check_budgets(training.described(record).input_shape)
    return Job(run_dir.name, run_dir, config, tuple(attacks), record.command, train=False)


def foreign_job(foreign: Foreign, out: Path, attacks: Sequence[Attack], *, command: str) -> Job:
    """Return the job that puts attacks on a network from elsewhere.

    Raises:
        UserError: the network or its examples cannot be loaded, or a budget is out of range for them.
    """
    subject = foreign.load()
    for attack in attacks:
        attack.check_budgets(subject.images.shape[1:])
        part = subject.first(attack.examples)
        evaluation.fingerprint(part.model, part.x, part.y, config_of(subject, attack), sources=source_networks(attack))
    return Job(out.name, out, training.TrainConfig(), tuple(attacks), command, train=False, foreign=foreign)


class Location(NamedTuple):
    """Where images lie now; None stands for where they lay before."""

    name: str | None = None  # of a data set, a directory or a file of arrays
    data_dir: Path | str | None = None  # of the files of a data set

    def of(self, images: training.DataConfig) -> training.DataConfig:
        """Return the images in this place."""
        given = {"name": self.name, "data_dir": None if self.data_dir is None else str(self.data_dir)}
        return images.model_copy(update={key: value for key, value in given.items() if value is not None})


def moved(job: Job, location: Location) -> Job:
    """Return the job with its images in another place."""
    return replace(job, config=job.config.model_copy(update={"data": location.of(job.config.data)}))


def train_run(
    config: training.TrainConfig, out: Path, *, job: str, command: str, report: Report, remarks: bool = True
) -> records.Run:
    """Train a run, or return the one that is there, with events of its progress, and of remarks on its images if wanted."""

    read = reading(job, report)

    def tell(progress: training.Progress) -> None:
        if progress.epoch == 0:
            read(progress.step, progress.steps)
            remark(job, progress.remarks if remarks else (), report)
            return
        parts = []
        if (metrics := progress.metrics) is not None:
            parts = [
                f"epoch {progress.epoch} of {progress.epochs}",
                f"loss {metrics['train_loss']:.4f}",
                f"training accuracy {metrics['train_accuracy']:.1%}",
                progress.conditioning,
                f"{metrics['seconds']:.1f} s",
            ]
        note = ", ".join(filter(None, parts))
        report(Event(job, "training", progress.step, progress.steps, note, progress.conditioning, "\n".join(progress.alerts)))

    return training.train(config, out, progress=tell, command=command)


def attack_run(job: Job, attack: Attack, report: Report) -> str:
    """Attack a trained run and store the result, unless there is one of this network; return its directory's name.

    What an evaluation that was stopped had finished is found in its units and not done again.
    """
    stage = f"{attack.suite.name} {attack.suite.norm}"
    subject = subject_of(job, attack, report)
    place = place_of(job, attack, subject)
    if place.kept is not None:
        report(Event(job.name, stage, SCALE, SCALE, f"{stage} is there already"))
        return place.files.root.name
    report(Event(job.name, stage, 0, SCALE, f"{stage} on {len(subject.y)} examples"))
    result = evaluation.evaluate(
        subject.model,
        subject.x,
        subject.y,
        suite=attack.suite,
        seed=attack.seed,
        batch_size=attack.batch_size,
        gradients=subject.gradients,
        sources=source_networks(attack),
        max_passes=attack.max_passes,
        max_seconds=attack.max_seconds,
        store=job.units(attack),
        progress=teller(job.name, stage, report),
    )
    record = result.save(place.files.root)
    worst = f"{result.robust_accuracy.value:.1%} at eps {numbers.budget(max(result.record.eps))}"
    unresolved = next(entry.unresolved for entry in reversed(result.record.accuracies))
    left = f", {unresolved} examples unresolved" if unresolved else ""
    note = f"{stage}: clean {result.clean_accuracy.value:.1%}, worst case {worst}{left}, {record.seconds:.1f} s"
    report(Event(job.name, stage, SCALE, SCALE, note, warning=place.said(record)))
    return place.files.root.name


def teller(name: str, stage: str, report: Report) -> evaluation.Progress:
    """Return what turns an evaluation's progress into events."""
    return lambda fraction, what: report(Event(name, f"{stage}: {what}", round(fraction * SCALE), SCALE))


def subject_of(job: Job, attack: Attack, report: Report = quiet) -> Subject:
    """Return what an attack of a job is put on."""
    progress = reading(job.name, report)
    if job.foreign is not None:
        return job.foreign.load(progress).first(attack.examples)
    return trained(job.out, job.config.data, progress, trust_code=attack.trust_code).first(attack.examples)


def config_of(subject: Subject, attack: Attack, offset: int = 0) -> evaluation.EvalConfig:
    """Return how a network is attacked."""
    gradients, size = subject.gradients, attack.batch_size
    return evaluation.EvalConfig.resolve(attack.suite, seed=attack.seed, batch_size=size, gradients=gradients, offset=offset)


def source_networks(attack: Attack) -> list[nn.Module]:
    """Return the networks on which attacks by transfer make their inputs."""
    return [network(source, trust_code=attack.trust_code) for source in attack.sources]


def place_of(job: Job, attack: Attack, subject: Subject) -> Place:
    """Return the place of an attack's result.

    Raises:
        UserError: network, examples and attack do not go together, or a record is of another version.
    """
    config, sources = config_of(subject, attack), source_networks(attack)
    known = evaluation.fingerprint(subject.model, subject.x, subject.y, config, sources=sources)
    return place_result(records.RunFiles(job.out), attack.directory, known, config, len(subject.y))
