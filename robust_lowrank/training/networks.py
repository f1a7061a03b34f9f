"""The network of a run is made from its configuration, and read from its directory."""

from pathlib import Path
from typing import NamedTuple, Self

import torch
from pydantic import ValidationError
from torch import nn

from robust_lowrank import checkpoint, models, records
from robust_lowrank.data import DATASETS, Dataset
from robust_lowrank.errors import UserError
from robust_lowrank.records import RunFiles, RunRecord
from robust_lowrank.training.config import ModelConfig, TrainConfig


class Task(NamedTuple):
    """What a network is for: the shape of an input, (channels, height, width) of images, and the number of classes."""

    input_shape: tuple[int, ...]
    num_classes: int

    @classmethod
    def of_data(cls, dataset: Dataset) -> Self:
        """Return the task that a data set sets."""
        return cls(dataset.input_shape, dataset.num_classes)

    @classmethod
    def of_run(cls, record: RunRecord) -> Self:
        """Return the task of a run; records older than these fields have it from the name of their data."""
        if record.input_shape:
            return cls(tuple(record.input_shape), record.num_classes)
        entry = DATASETS[record.data]
        return cls(entry.input_shape, len(entry.classes))


def build_network(config: ModelConfig, task: Task) -> nn.Module:
    """Return the dense network of a configuration, with fresh weights.

    Raises:
        UserError: its function or name makes none that fits the task.
    """
    mean, std = config.mean, config.std
    return models.make(config.name, input_shape=task.input_shape, num_classes=task.num_classes, mean=mean, std=std)


def load_network(run_dir: Path | str) -> nn.Module:
    """Return the trained network of a run directory, in eval mode.

    Example:
        >>> load_network("runs/condlr")(torch.rand(1, 1, 8, 8)).argmax()  # doctest: +SKIP

    Raises:
        UserError: it is not a run directory, or the weights do not fit its record.
    """
    files = RunFiles(Path(run_dir))
    if not files.record.is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no {files.record.name}")
    record = records.read_record(files.record, RunRecord)
    try:
        config = TrainConfig.from_record(record.config)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{files.record} holds no configuration that this version can read: {reason}") from error
    with torch.random.fork_rng(devices=[]):
        network = build_network(config.model, Task.of_run(record))
    return load_weights(network, files.weights, config.model.name).eval()


def load_weights(network: nn.Module, path: Path, source: str) -> nn.Module:
    """Read the weights of a run into the dense network that its source has made, and return it.

    Raises:
        UserError: they do not fit.
    """
    try:
        return checkpoint.load(network, path)
    except UserError as error:
        if source in models.MODELS:
            raise
        raise UserError(
            f"{error}\nThe network is made by {source}: its code has changed since, or it needs other packages"
        ) from error
