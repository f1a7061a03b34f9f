"""The network of a run is made from its configuration, and read from its directory."""

from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from robust_lowrank import models, records
from robust_lowrank.data import DATASETS, Description
from robust_lowrank.errors import UserError
from robust_lowrank.records import RunFiles, RunRecord
from robust_lowrank.training.config import ModelConfig, TrainConfig
from robust_lowrank.training.recorded import CPU, RecordedConfig, is_recorded, load_recorded, load_weights


def described(record: RunRecord) -> Description:
    """Return what a run's record says of its data; an older one leaves it to the catalogue, which then has them."""
    if record.input_shape is None:
        return DATASETS[record.data].description
    return Description(record.input_shape, tuple(record.classes), tuple(record.remarks))


def config_of(record: RunRecord) -> TrainConfig | RecordedConfig:
    """Return how a run was trained.

    Raises:
        ValidationError: this version cannot read it.
    """
    return (RecordedConfig if is_recorded(record.config) else TrainConfig).from_record(record.config)


def build_network(config: ModelConfig, data: Description) -> nn.Module:
    """Return the dense network of a configuration for images and classes such as these, with fresh weights.

    Raises:
        UserError: its function or name makes none that fits them.
    """
    mean, std = config.mean, config.std
    return models.make(config.name, input_shape=data.input_shape, num_classes=len(data.classes), mean=mean, std=std)


def load_network(run_dir: Path | str, device: torch.device = CPU) -> nn.Module:
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
        config = config_of(record)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{files.record} holds no configuration that this version can read: {reason}") from error
    if isinstance(config, RecordedConfig):
        return load_recorded(config, described(record), files, device)
    with torch.random.fork_rng(devices=[]):
        network = build_network(config.model, described(record))
    return load_weights(network, files.weights, config.model.name).to(device).eval()
