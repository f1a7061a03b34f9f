"""What `run.json` says of a run that a loop of one's own has trained, and how its network and examples are read again."""

from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from robust_lowrank import checkpoint, models
from robust_lowrank.data import Description
from robust_lowrank.errors import UserError
from robust_lowrank.records import RunFiles
from robust_lowrank.tables import Table
from robust_lowrank.training.config import READING_KEYS, DataConfig, finite, infinite

CPU = torch.device("cpu")


class RecordedConfig(Table):
    """How a network was trained by a loop of one's own, as far as `rlr.record` knows."""

    loop: Literal["own"] = "own"
    source: str | None = None  # the function that makes the dense network, as `models.make` takes it; None: it is a program
    mean: tuple[float, ...] | None = Field(default=None, strict=False)  # None: the network normalises by itself
    std: tuple[float, ...] | None = Field(default=None, strict=False)
    data: DataConfig | None = None  # the examples that it is tested on; None: the run keeps them
    method: dict[str, Any]  # of its factored layers, with all options; the name "dense" without any
    optimizer: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return it for `run.json`: infinity as the string "inf"."""
        record = self.model_dump(exclude={"data"}, exclude_none=True)
        if self.data is not None:
            given = self.data.model_dump(include={"data_dir", *READING_KEYS}, exclude_defaults=True)
            record["data"] = {"name": self.data.name} | given
        return finite(record)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Return the configuration that `to_record` wrote.

        Raises:
            ValidationError: it is not one.
        """
        return cls.model_validate(infinite(record))


def is_recorded(config: dict[str, Any]) -> bool:
    """Return whether a record's configuration is one of a loop of one's own."""
    return config.get("loop") == "own"


def load_recorded(config: RecordedConfig, data: Description, files: RunFiles, device: torch.device = CPU) -> nn.Module:
    """Return the network of a run that a loop of one's own has trained: inputs in [0, 1] go in, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged, or the function makes another network.
    """
    if config.source is None:
        return models.load_standalone(files.program, device)
    shape, classes = data.input_shape, len(data.classes)
    with torch.random.fork_rng(devices=[]):
        bare = models.make(config.source, input_shape=shape, num_classes=classes)
    network, _ = models.normalised(load_weights(bare, files.weights, config.source), shape, config.mean, config.std)
    return network.to(device).eval()


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


def read_examples(files: RunFiles) -> tuple[Tensor, Tensor]:
    """Return the inputs, as they were given, and labels that a run keeps.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        tensors = load_file(files.examples)
        return tensors["x"], tensors["y"]
    except FileNotFoundError as error:
        raise UserError(f"{files.examples} is missing: put the run's own file back") from error
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{files.examples} cannot be read, {error}: put the run's own file back") from error
