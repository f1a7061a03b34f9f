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
from robust_lowrank.training.functions import require_own
from robust_lowrank.training.recorded import CPU, RecordedConfig, is_recorded, load_recorded, load_weights

LARGE = 2**28  # bytes of a network that is made without a question
SPARED = 1000  # times that its factors may be smaller


def described(record: RunRecord) -> Description:
    """Return what a run's record says of its data; an older one leaves it to the catalogue, which then has them.

    Raises:
        UserError: neither does.
    """
    if record.input_shape is None:
        if record.data not in DATASETS:
            raise UserError(f"the record of {record.label} says neither the shape of its inputs nor a data set that has one")
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


def load_network(run_dir: Path | str, device: torch.device = CPU, *, trust_code: bool = False) -> nn.Module:
    """Return the trained network of a run directory, in eval mode.

    Args:
        trust_code: call whatever function the record names as the one that makes the network. Without it none is called but one
            that a file below the current directory defines.

    Example:
        >>> load_network("runs/condlr")(torch.rand(1, 1, 8, 8)).argmax()  # doctest: +SKIP

    Raises:
        UserError: it is not a run directory, the weights do not fit its record, or a function of somebody else makes it.
    """
    files = RunFiles(Path(run_dir))
    if not files.record.is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no {files.record.name}")
    record = records.read_record(files.record, RunRecord)
    try:
        config = config_of(record)
    except ValidationError as error:
        reason = records.faults(error)
        raise UserError(f"{files.record} holds no configuration that this version can read: {reason}") from error
    source = config.source if isinstance(config, RecordedConfig) else config.model.name
    require_own(source or "", files.root, trust_code=trust_code)
    if isinstance(config, RecordedConfig):
        return load_recorded(config, described(record), files, device)
    _require_size(config.model.name, described(record), files.weights)
    with torch.random.fork_rng(devices=[]):
        network = build_network(config.model, described(record))
    return load_weights(network, files.weights, config.model.name).to(device).eval()


def _require_size(name: str, data: Description, weights: Path) -> None:
    """Require weights of a size that the network which a record describes may have, before it is made.

    Raises:
        UserError: they are far too few.
    """
    if name not in models.MODELS or not weights.is_file():
        return
    with torch.device("meta"):
        network = models.build(name, input_shape=data.input_shape, num_classes=len(data.classes))  # pyright: ignore[reportArgumentType]
    size = 4 * sum(parameter.numel() for parameter in network.parameters())
    if size > max(LARGE, SPARED * weights.stat().st_size):
        raise UserError(f"{weights} is far too small for the network that its run.json describes, {size:,} bytes in dense form")
