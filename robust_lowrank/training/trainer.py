"""The trainer takes one run from its configuration to its files."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from robust_lowrank import records
from robust_lowrank.compression import count_parameters
from robust_lowrank.conditioning import Alert
from robust_lowrank.conditioning.alerts import log
from robust_lowrank.data import Dataset, digest
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.methods import SVD
from robust_lowrank.training.config import TrainConfig
from robust_lowrank.training.loop import Examples, accuracy
from robust_lowrank.training.naming import describe
from robust_lowrank.training.resume import drop_states
from robust_lowrank.training.rundir import behaviour_on, finished_run, read_trained
from robust_lowrank.training.state import TrainJob, TrainState, factorise, phases


@dataclass(frozen=True)
class Progress:
    """Progress of a training after a step, or after an epoch with its metrics (a row of `records.METRICS`).

    With a monitor also its line; `alerts` are what it has warned of since the last time, and why epochs begin again. Before the
    first epoch a step is an image that is read, and at the end of that come the remarks on them.
    """

    label: str
    step: int
    steps: int
    epoch: int
    epochs: int
    metrics: dict[str, float] | None = None
    conditioning: str = ""
    alerts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def train(
    config: TrainConfig,
    out: Path | str,
    *,
    progress: Callable[[Progress], None] | None = None,
    command: str = "",
) -> records.Run:
    """Train a network and write its run directory.

    Example:
        >>> run = train(TrainConfig(method=MethodConfig(name="condlr", tau=0.1)), "runs/condlr")  # doctest: +SKIP

    A complete run of the same configuration and data in `out` is returned as it is; one that was interrupted goes on after its last
    complete epoch. The same seed gives the same weights bit for bit on the same machine with the same number of threads,
    interrupted or not. Random states of the caller are left as found.

    Args:
        config: what to train.
        out: the directory; it may exist if it is empty or holds this run.
        progress: called after every step and every epoch.
        command: the command line that `run.json` shall name.

    Raises:
        UserError: data are missing, ranks, eps or the network do not fit, or `out` holds something else, such as a run of
            a network whose code was another; nothing has been written then.
        TrainingError: loss, gradients, factors or logits are no longer finite, and `on_nonfinite` is "stop" or has not helped;
            `out` keeps the last sound epoch, status "running", from which a next attempt goes on.
    """
    out = Path(out)
    dataset, validation = _data(config, progress)
    hashes = {"train": digest(dataset.train_images, dataset.train_y), "test": digest(dataset.test_images, dataset.test_y)}
    if (run := finished_run(out, config, hashes, dataset)) is not None:
        return run
    device = config.training.torch_device
    job = TrainJob(config, out, dataset, hashes, device, command)
    alerts: list[Alert] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        on_alert = log if progress is None else alerts.append
        state = TrainState.resume(job, on_alert) or TrainState.begin(job, on_alert)
        _run(state, validation, progress, alerts, on_alert)
    return read_trained(out)


def _data(config: TrainConfig, progress: Callable[[Progress], None] | None) -> tuple[Dataset, Examples | None]:
    """Return the images to train and test on, and those to validate on: the last of the training set."""
    options, label = config.data, describe(config.method, config.training.adversarial)
    tell = (lambda _: None) if progress is None else progress
    whole = options.load(lambda done, total: tell(Progress(label, done, total, 0, config.training.epochs)))
    if whole.remarks:
        tell(Progress(label, 1, 1, 0, config.training.epochs, remarks=whole.remarks))
    available = len(whole.train_y) - options.validation_examples
    if (options.train_examples or 1) > available:
        raise UserError(
            f"{options.name} has {len(whole.train_y)} training images here: too few for "
            f"train_examples = {options.train_examples} and validation_examples = {options.validation_examples}"
        )
    validation = Examples(whole.train_images[available:], whole.train_y[available:]) if options.validation_examples else None
    return whole.first(train=options.train_examples or available, test=options.test_examples), validation


def _run(
    state: TrainState,
    validation: Examples | None,
    progress: Callable[[Progress], None] | None,
    alerts: list[Alert],
    on_alert: Callable[[Alert], None],
) -> None:
    """Train to the end, and write every epoch as it is complete."""
    config, epochs = state.job.config, phases(state.job.config)[-1].last

    def report(metrics: dict[str, float] | None = None, *remarks: str) -> None:
        if progress is not None:
            line = "" if state.monitor is None else state.monitor.line()
            warnings = (*remarks, *map(str, alerts))
            alerts.clear()
            steps = epochs * state.loop.steps_per_epoch
            epoch = state.done + (metrics is None)
            progress(Progress(state.writer.record.label, state.step, steps, epoch, epochs, metrics, line, warnings))

    while state.done < epochs:
        try:
            metrics = _epoch(state, validation, report)
        except TrainingError as error:
            if config.training.on_nonfinite == "stop":
                raise
            state = state.roll_back(error, on_alert)
            report(None, state.remarks[-1])
            continue
        if state.done < epochs:
            state.keep()
        report(metrics)
    drop_states(state.job.out)


def _epoch(state: TrainState, validation: Examples | None, report: Callable[[], None]) -> dict[str, float]:
    """Train an epoch, write it and return its metrics.

    Raises:
        TrainingError: something is no longer finite; nothing has been written then.
    """
    config, dataset, model, writer = state.job.config, state.job.dataset, state.model, state.writer
    epoch = state.done + 1
    state.enter(epoch)
    outcome = state.loop.epoch(on_step=report)
    if epoch == state.phase.last:
        state.loop.finish()
    changes: dict[str, object] = {"seconds": writer.record.seconds + outcome.seconds}
    if config.method.name == SVD.name and epoch == config.training.epochs:
        changes["kept_dense"] = factorise(model, config, state.job.data)
    changes["parameters"] = count_parameters(model)
    metrics = {
        "epoch": epoch,
        "step": state.step,
        "lr": outcome.lr,
        "train_loss": outcome.loss,
        "train_accuracy": outcome.accuracy,
        "validation_accuracy": math.nan if validation is None else accuracy(model, validation),
        "seconds": outcome.seconds,
    }
    if epoch == phases(config)[-1].last:
        tested = accuracy(model, Examples(dataset.test_images, dataset.test_y))
        changes |= {"status": "complete", "test_accuracy": tested}
    changes["behaviour"] = behaviour_on(model, dataset)
    if state.history is not None:
        state.history.flush()
    writer.write(model, metrics, **changes)
    return metrics
