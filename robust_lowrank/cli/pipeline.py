"""The chain that the commands share: a job is one run directory, trained and attacked, and what is finished is reused."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from robust_lowrank import data, evaluation, records, training
from robust_lowrank.cli.progress import Event, Report
from robust_lowrank.cli.subjects import FOREIGN, Foreign, Subject, network, trained
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.evaluation import Suite

UNITS = "units"  # the directory of finished units of work below RUN/results/SUITE
SCALE = 1000  # steps of a bar for work that is measured as a fraction


@dataclass(frozen=True)
class Attack:
    """One evaluation: a suite with its norm and budgets settled, and on which test examples."""

    suite: Suite
    directory: str  # its name below RUN/results
    examples: int | None = None  # the first of the test set; None: all
    seed: int = 0
    batch_size: int = evaluation.BATCH
    sources: tuple[Path, ...] = ()  # runs on which inputs for attacks by transfer are made
    max_passes: int | None = None
    max_seconds: float | None = None

    @classmethod
    def settle(
        cls,
        suite: str | Path,
        *,
        eps: Sequence[float | str] | None = None,
        norm: str | None = None,
        examples: int | None = None,
        seed: int = 0,
        batch_size: int = evaluation.BATCH,
        sources: Sequence[Path] = (),
        max_passes: int | None = None,
        max_seconds: float | None = None,
    ) -> "Attack":
        """Read a suite by name or file and give it other budgets or another norm, which then shows in the directory's name.

        Raises:
            UserError: the suite, a budget, the norm, the number of examples or a source is not one.
        """
        own = evaluation.load_suite(suite)
        evaluation.Meter(max_passes=max_passes, max_seconds=max_seconds)
        if examples is not None and examples < 1:
            raise UserError(f"{examples} examples are none: attack at least one")
        config = evaluation.EvalConfig.resolve(own, eps=eps or None, norm=norm, seed=seed, batch_size=batch_size)
        if sources and not any(kind.transfers for kind in own.attacks):
            raise UserError(f"suite {own.name!r} has no attack by transfer, which a source is for: take 'blackbox', or no --source")
        for source in sources:
            stored_job(source, [])
        return cls(
            suite=config.suite,
            directory=own.name if norm in (None, own.norm) else f"{own.name}-{norm}",
            examples=examples,
            seed=seed,
            batch_size=batch_size,
            sources=tuple(sources),
            max_passes=max_passes,
            max_seconds=max_seconds,
        )

    @property
    def limited(self) -> bool:
        """Whether it has a budget, after which it ends with what it has."""
        return self.max_passes is not None or self.max_seconds is not None

    def check_budgets(self, input_shape: Sequence[int]) -> None:
        """Require budgets that mean something for images of this shape.

        Raises:
            UserError: one is not above 0 and within the diameter of all images.
        """
        for spec in self.suite.attacks:
            for eps in self.suite.radii(spec):
                evaluation.threat(self.suite.norm, eps, features=math.prod(input_shape))


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


def experiment_jobs(experiment: training.Experiment, out: Path, *, command: str) -> list[Job]:
    """Return the jobs of an experiment, one a run, below `out`/runs.

    Raises:
        UserError: a suite is unknown, or a budget is out of range for these images.
    """
    attacks = tuple(
        Attack.settle(entry.suite, eps=entry.eps, norm=entry.norm, examples=entry.examples) for entry in experiment.attacks
    )
    for attack in attacks:
        attack.check_budgets(data.DATASETS[experiment.data.name].input_shape)
    if repeated := {a.directory for a in attacks if sum(b.directory == a.directory for b in attacks) > 1}:
        raise UserError(f"{experiment.name}: suite {repeated.pop()} stands there twice with one norm: give it several eps instead")
    return [Job(name, out / "runs" / name, config, attacks, command) for name, config in experiment.runs()]


def stored_job(run_dir: Path, attacks: Sequence[Attack]) -> Job:
    """Return the job that puts attacks on a run directory.

    Raises:
        UserError: it is not a complete run directory, or a budget is out of range for its images.
    """
    record = records.read_run(run_dir).record
    if record.method == FOREIGN:
        raise UserError(f"{run_dir} holds the results of {record.model}, not the network: attack it with --model again")
    if record.status != "complete":
        raise UserError(f"{run_dir} is not complete: its training stopped after epoch {record.epochs_done}; train it again")
    try:
        config = training.TrainConfig.from_record(record.config)
    except ValidationError as error:
        raise UserError(f"{run_dir}/run.json: this version cannot read its configuration: {error.errors()[0]['msg']}") from error
    for attack in attacks:
        attack.check_budgets(data.DATASETS[config.data.name].input_shape)
    return Job(run_dir.name, run_dir, config, tuple(attacks), record.command, train=False)


def foreign_job(foreign: Foreign, out: Path, attacks: Sequence[Attack], *, command: str) -> Job:
    """Return the job that puts attacks on a network from elsewhere.

    Raises:
        UserError: the network or its examples cannot be loaded, or a budget is out of range for them.
    """
    subject = foreign.load()
    for attack in attacks:
        attack.check_budgets(subject.x.shape[1:])
        part = subject.first(attack.examples)
        evaluation.fingerprint(part.model, part.x, part.y, config_of(subject, attack), sources=_sources(attack))
    return Job(out.name, out, training.TrainConfig(), tuple(attacks), command, train=False, foreign=foreign)


def with_data(job: Job, data_dir: Path | None, download: bool) -> Job:
    """Return the job with its images looked for in `data_dir`, and fetched if that is allowed."""
    own = job.config.data
    directory = own.data_dir if data_dir is None else str(data_dir)
    place = own.model_copy(update={"data_dir": directory, "download": download or own.download})
    return replace(job, config=job.config.model_copy(update={"data": place}))


def train_run(config: training.TrainConfig, out: Path, *, job: str, command: str, report: Report) -> records.Run:
    """Train a run, or return the one that is there, with events of its progress."""

    def tell(progress: training.Progress) -> None:
        note = ""
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


def attack_run(job: Job, attack: Attack, report: Report) -> records.ResultRecord:
    """Attack a trained run and store the result, or return the stored one if its weights, data and attack are these.

    What an evaluation that was stopped had finished is found in its units and not done again.
    """
    stage = f"{attack.suite.name} {attack.suite.norm}"
    subject = subject_of(job, attack)
    target = job.out / "results" / attack.directory
    if (stored := _kept(job, attack, subject)) is not None:
        report(Event(job.name, stage, SCALE, SCALE, f"{stage} is there already"))
        return stored
    report(Event(job.name, stage, 0, SCALE, f"{stage} on {len(subject.y)} examples"))
    result = evaluation.evaluate(
        subject.model,
        subject.x,
        subject.y,
        suite=attack.suite,
        seed=attack.seed,
        batch_size=attack.batch_size,
        gradients=subject.gradients,
        sources=_sources(attack),
        max_passes=attack.max_passes,
        max_seconds=attack.max_seconds,
        store=target / UNITS,
        progress=_teller(job.name, stage, report),
    )
    result.save(target)
    worst = f"{result.robust_accuracy.value:.1%} at eps {max(result.record.eps):.4g}"
    unresolved = next(entry.unresolved for entry in reversed(result.record.accuracies))
    left = f", {unresolved} examples unresolved" if unresolved else ""
    note = f"{stage}: clean {result.clean_accuracy.value:.1%}, worst case {worst}{left}, {result.record.seconds:.1f} s"
    report(Event(job.name, stage, SCALE, SCALE, note))
    return result.record


@dataclass(frozen=True)
class Part:
    """A part of the examples of one attack on one run, for a process of its own."""

    job: Job
    attack: Attack
    index: int
    of: int


def parts(jobs: Sequence[Job], workers: int) -> list[Part]:
    """Return what several processes can do of attacks on runs that are trained, where each run has two or more.

    Attacks with a budget are left out: it is one for all examples, and spent in their order.
    """
    each = workers // len(jobs)
    if each < 2:
        return []
    shared = [(job, attack) for job in jobs if not job.train for attack in job.attacks if not attack.limited]
    return [Part(job, attack, index, each) for job, attack in shared for index in range(each)]


def perform_part(part: Part, report: Report) -> None:
    """Do the units of one part and leave them in the store, unless the result is there."""
    job, attack = part.job, part.attack
    subject = subject_of(job, attack)
    if _kept(job, attack, subject) is not None:
        return
    batches = torch.arange(len(subject.x)).split(attack.batch_size)
    tell = _teller(f"{job.name}, part {part.index + 1} of {part.of}", f"{attack.suite.name} {attack.suite.norm}", report)
    for batch in batches[part.index :: part.of]:
        config = config_of(subject, attack, offset=int(batch[0]))
        store = job.out / "results" / attack.directory / UNITS
        x, y = subject.x[batch], subject.y[batch]
        evaluation.prepare(subject.model, x, y, config, store=store, sources=_sources(attack), progress=tell)


def _teller(name: str, stage: str, report: Report) -> evaluation.Progress:
    def tell(fraction: float, what: str) -> None:
        report(Event(name, f"{stage}: {what}", round(fraction * SCALE), SCALE))

    return tell


def perform(job: Job, report: Report) -> str | None:
    """Do one job: train unless it is to be attacked as it is, then attack. Return why its training failed, if it did."""
    if job.train:
        try:
            train_run(job.config, job.out, job=job.name, command=job.command, report=report)
        except TrainingError as error:
            report(Event(job.name, "failed", 1, 1, note=str(error)))
            return str(error)
    for attack in job.attacks:
        attack_run(job, attack, report)
    return None


def subject_of(job: Job, attack: Attack) -> Subject:
    """Return what an attack of a job is put on."""
    subject = trained(job.out, job.config.data) if job.foreign is None else job.foreign.load()
    return subject.first(attack.examples)


def config_of(subject: Subject, attack: Attack, offset: int = 0) -> evaluation.EvalConfig:
    """Return how a network is attacked."""
    gradients, size = subject.gradients, attack.batch_size
    return evaluation.EvalConfig.resolve(attack.suite, seed=attack.seed, batch_size=size, gradients=gradients, offset=offset)


def _sources(attack: Attack) -> list[nn.Module]:
    return [network(source) for source in attack.sources]


def _kept(job: Job, attack: Attack, subject: Subject) -> records.ResultRecord | None:
    """Return the stored result, if there is one that is complete and of these weights, data and attack.

    Raises:
        UserError: network, examples and attack do not go together.
    """
    config = config_of(subject, attack)
    hashes = evaluation.fingerprint(subject.model, subject.x, subject.y, config, sources=_sources(attack))
    path = job.out / "results" / attack.directory / "result.json"
    if not path.is_file():
        return None
    stored = records.read_record(path, records.ResultRecord)
    complete = not any(entry.unresolved for entry in stored.accuracies)
    return stored if complete and stored.hashes == hashes else None
