"""The network of a run is made from its configuration, and read from its directory."""

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from robust_lowrank import checkpoint, models, records
from robust_lowrank.data import DATASETS, Description
from robust_lowrank.errors import UserError
from robust_lowrank.records import RunFiles, RunRecord
from robust_lowrank.training.config import ModelConfig, TrainConfig


def described(record: RunRecord) -> Description:
    """Return what a run's record says of its data; an older one leaves it to the catalogue, which then has them."""
    if record.input_shape is None:
        return DATASETS[record.data].description
    return Description(record.input_shape, tuple(record.classes), tuple(record.remarks))


def build_network(config: ModelConfig, data: Description) -> nn.Module:
    """Return the dense network of a configuration for images and classes such as these, with fresh weights.

    Raises:
        UserError: its function or name makes none that fits them.
    """
    mean, std = config.mean, config.std
    return models.make(config.name, input_shape=data.input_shape, num_classes=len(data.classes), mean=mean, std=std)


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
        network = build_network(config.model, described(record))
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
