"""One training run: seeds, batches, epochs, and the files that come of them."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from robust_lowrank import records
from robust_lowrank.compress import compress, count_parameters
from robust_lowrank.data import DATASETS, Dataset, digest, load
from robust_lowrank.errors import UserError
from robust_lowrank.methods import SVD
from robust_lowrank.models import classifier
from robust_lowrank.provenance import machine, versions
from robust_lowrank.training.config import DENSE, BudgetTable, MethodConfig, RankTable, TrainConfig
from robust_lowrank.training.costs import measure_costs
from robust_lowrank.training.fitting import Examples, Fitting, accuracy
from robust_lowrank.training.naming import describe
from robust_lowrank.training.rundir import RunWriter, build_network, finished_run


@dataclass(frozen=True)
class Progress:
    """How far training is: after every step, and after every epoch with its metrics (a row of `records.METRICS`)."""

    label: str
    step: int
    steps: int
    epoch: int
    epochs: int
    metrics: dict[str, float] | None = None


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

    A complete run of the same configuration and data in `out` is returned as it is; one that was interrupted starts over. The
    same seed gives the same weights bit for bit on the same machine with the same number of threads. Random states of the
    caller are left as found.

    Args:
        config: what to train.
        out: the directory; it may exist if it is empty or holds this run.
        progress: called after every step and every epoch.
        command: the command line that `run.json` shall name.

    Raises:
        UserError: data are missing, ranks or eps do not fit, or `out` holds something else; nothing has been written then.
        TrainingError: the loss or the logits are no longer finite; `out` keeps the last sound epoch, status "running".
    """
    out = Path(out)
    dataset, validation = _data(config)
    hashes = {
        "train": digest(dataset.train_images, dataset.train_y),
        "test": digest(dataset.test_images, dataset.test_y),
    }
    if (run := finished_run(out, config, hashes)) is not None:
        return run
    device = _device(config.training.device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(config.seed)
        model = build_network(config)
        afterwards = config.method.name == SVD.name
        kept_dense = {} if afterwards else _compress(model, config.method)
        model.to(device)
        examples = Examples(dataset.train_images, dataset.train_y)
        fitting = Fitting(model, examples, config.training, config.method, seed=config.seed)
        record = records.RunRecord(
            label=describe(config.method, config.training.adversarial),
            method=config.method.name,
            model=config.model.name,
            data=config.data.name,
            seed=config.seed,
            created=records.now(),
            command=command,
            config=config.to_record(),
            versions=versions(),
            machine=machine(device),
            hashes=hashes,
            parameters=count_parameters(model),
            classes=list(DATASETS[config.data.name].classes),
            kept_dense=kept_dense,
        )
        writer = RunWriter(out, record)
        writer.write(model, None)
        _fit(fitting, config, dataset, validation, writer, progress)
    return records.read_run(out)


def _data(config: TrainConfig) -> tuple[Dataset, Examples | None]:
    """Return the images to train and test on, and those to validate on: the last of the training set."""
    wanted = config.data
    whole = load(wanted.name, data_dir=wanted.data_dir, download=wanted.download)
    held_out = wanted.validation_examples
    available = len(whole.train_y) - held_out
    if (wanted.train_examples or 1) > available:
        raise UserError(
            f"{wanted.name} has {len(whole.train_y)} training images here: too few for "
            f"train_examples = {wanted.train_examples} and validation_examples = {held_out}"
        )
    validation = Examples(whole.train_images[available:], whole.train_y[available:]) if held_out else None
    return whole.first(train=wanted.train_examples or available, test=wanted.test_examples), validation


def _compress(model: nn.Module, method: MethodConfig) -> dict[str, str]:
    if method.name == DENSE:
        return {}
    assert method.start is not None
    exclude = (re.escape(classifier(model)),) if method.exclude is None else method.exclude
    rank = method.rank.made() if isinstance(method.rank, RankTable | BudgetTable) else method.rank
    start = "weights" if method.name == SVD.name else method.start
    report = compress(model, method=method.method(), rank=rank, exclude=exclude, start=start)
    return report.kept_dense


def _device(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _fit(
    fitting: Fitting,
    config: TrainConfig,
    dataset: Dataset,
    validation: Examples | None,
    writer: RunWriter,
    progress: Callable[[Progress], None] | None,
) -> None:
    model, examples = fitting.model, fitting.examples
    method = config.method.method() if config.method.name != DENSE else None
    finetune = method.finetune if isinstance(method, SVD) else 0
    epochs = config.training.epochs + finetune
    seconds, earlier = 0.0, 0

    def report(epoch: int, metrics: dict[str, float] | None = None) -> None:
        if progress is not None:
            label = writer.record.label
            progress(Progress(label, earlier + fitting.step, epochs * fitting.steps_per_epoch, epoch, epochs, metrics))

    for epoch in range(1, epochs + 1):
        if epoch == config.training.epochs + 1:
            earlier = fitting.step
            tuning = config.training.model_copy(update={"epochs": finetune})
            fitting = Fitting(model, examples, tuning, config.method, seed=config.seed + 1)
        outcome = fitting.epoch(on_step=lambda: report(epoch))  # noqa: B023
        seconds += outcome.seconds
        changes: dict[str, object] = {"seconds": seconds}
        if isinstance(method, SVD) and epoch == config.training.epochs:
            changes["kept_dense"] = _compress(model, config.method)
        metrics = {
            "epoch": epoch,
            "step": earlier + fitting.step,
            "lr": outcome.lr,
            "train_loss": outcome.loss,
            "train_accuracy": outcome.accuracy,
            "validation_accuracy": math.nan if validation is None else accuracy(model, validation),
            "seconds": outcome.seconds,
        }
        changes["parameters"] = count_parameters(model)
        if epoch == epochs:
            tested = accuracy(model, Examples(dataset.test_images, dataset.test_y))
            costs = measure_costs(model, dataset.input_shape)
            changes |= {"status": "complete", "test_accuracy": tested, "costs": costs}
        writer.write(model, metrics, **changes)
        report(epoch, metrics)
