"""A training run is configured by the tables of a TOML file, which `run.json` keeps."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, Field, field_validator, model_validator

from robust_lowrank.data import Dataset, Description, Examples, Progress, Reading, describe, load, load_examples
from robust_lowrank.data.reading import quiet
from robust_lowrank.errors import UserError, first_line, unknown_name
from robust_lowrank.models import MODELS
from robust_lowrank.ranges import BatchSize, Count, Epochs, Factor, Seed, Shift, Weight
from robust_lowrank.tables import PathText, Table, parse_table, read_table
from robust_lowrank.training.adversarial_config import AdversarialConfig
from robust_lowrank.training.method_config import DENSE, MILESTONES, MethodConfig

DEFAULT_MOMENTUM = 0.3
CHANNELS = 4096  # the most in one list
READING_KEYS = ("size", "channels", "test_fraction", "skip_broken")  # of [data]: how data of one's own are read


def _require_model(name: str) -> str:
    if name in MODELS:
        return name
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(f"{unknown_name('model', name, MODELS)}; one of your own is module:function")
    if not module or not function:
        raise UserError(f"model {name!r} is not of the form module:function, such as nets:small of nets.py")
    return name


def finite(value: Any) -> Any:
    """Return a value as JSON can hold it: infinity as the string "inf", tuples as lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return "inf" if value == math.inf else value


def infinite(value: Any) -> Any:
    """Return a value that `finite` returned, with its infinities."""
    if isinstance(value, dict):
        return {key: infinite(item) for key, item in value.items()}
    return math.inf if value == "inf" else value


class DataConfig(Table):
    """The images: the first `train_examples` to train on, the last `validation_examples` of that part to watch.

    `size` to `skip_broken` say how data of one's own are read: `data.Reading`.
    """

    name: PathText = "digits"  # or the path of a directory or a file of arrays, as it was given
    data_dir: PathText | None = None
    download: bool = False
    size: int | Annotated[tuple[int, int], Field(strict=False)] | None = None
    channels: int | None = None
    test_fraction: float | None = None
    skip_broken: bool = False
    train_examples: Count | None = None  # None: all but those for validation
    validation_examples: Count | Literal[0] = 0
    test_examples: Count | None = None  # None: all

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._options()
        return self

    def _options(self) -> dict[str, Any]:
        reading = Reading(self.size, self.channels, self.test_fraction, self.skip_broken)
        return {"data_dir": self.data_dir, "download": self.download, "reading": reading}

    def load(self, progress: Progress = quiet) -> Dataset:
        """Return the data set, all of it."""
        return load(self.name, **self._options(), progress=progress)

    def load_examples(self, progress: Progress = quiet) -> Examples:
        """Return what a network from elsewhere is attacked on."""
        return load_examples(self.name, **self._options(), progress=progress)

    def describe(self, progress: Progress = quiet) -> Description:
        """Return what a network must fit; images of the catalogue are not loaded for it."""
        return describe(self.name, **self._options(), progress=progress)


class ModelConfig(Table):
    """The architecture: one of `MODELS`, `module:function`, `torchvision:NAME` or `timm:NAME`, as `models.make` takes them."""

    name: Annotated[str, AfterValidator(_require_model)] = "cnn"
    mean: tuple[Shift, ...] | None = Field(
        default=None, strict=False, min_length=1, max_length=CHANNELS
    )  # None: it normalises itself
    std: tuple[Factor, ...] | None = Field(default=None, strict=False, min_length=1, max_length=CHANNELS)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise UserError("mean and std go together: give both, or neither where the network normalises by itself")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise UserError(f"mean has {len(self.mean)} numbers and std {len(self.std)}: give one of each a channel")
        return self


class TrainingConfig(Table):
    """Length and speed."""

    epochs: Epochs = 5
    batch_size: BatchSize = 128
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Factor = 0.1
    momentum: float | None = Field(default=None, ge=0, lt=1)  # 0.3 with SGD; the others have none
    cycle_momentum: bool = False  # SGD, one-cycle: from 0.95 to 0.85 while the learning rate rises, and back
    weight_decay: Weight = 0.0
    schedule: Literal["constant", "one-cycle", "cosine", "multistep"] = "one-cycle"
    milestones: tuple[Epochs, ...] = Field(
        default=(), strict=False, max_length=MILESTONES
    )  # epochs after which lr is multiplied by gamma
    gamma: float = Field(default=0.1, gt=0, lt=1)
    temperature: Factor = 1.0  # divides the logits in the loss; above 1 margins grow
    precision: Literal["float32", "bf16"] = "float32"  # bf16: autocast; weights and factors stay float32
    on_nonfinite: Literal["stop", "rollback"] = "stop"  # rollback: from the last complete epoch on, with half the learning rate
    device: str = "auto"  # "auto": CUDA where there is one
    adversarial: AdversarialConfig | None = None  # None: ordinary training, on clean images

    @property
    def steady_momentum(self) -> float | None:
        """The momentum that stays as it is through the training, if there is one."""
        if self.optimizer != "sgd" or self.cycle_momentum:
            return None
        return DEFAULT_MOMENTUM if self.momentum is None else self.momentum

    @property
    def torch_device(self) -> torch.device:
        """The device to train on."""
        name = self.device
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.optimizer != "sgd" and self.momentum is not None:
            raise UserError(f"momentum belongs to sgd; {self.optimizer} has none to set")
        if self.cycle_momentum and (self.optimizer, self.schedule, self.momentum) != ("sgd", "one-cycle", None):
            raise UserError("cycle_momentum needs optimizer = 'sgd' and schedule = 'one-cycle', and leaves no momentum to set")
        if (self.schedule == "multistep") != bool(self.milestones):
            raise UserError("milestones (epochs) and schedule = 'multistep' go together")
        return self

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, milestones: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in zip((0, *milestones), milestones, strict=False)):
            raise UserError(f"milestones = {list(milestones)} must be epochs from 1, ascending")
        return milestones

    @field_validator("device")
    @classmethod
    def _available(cls, device: str) -> str:
        if device != "auto":
            try:
                torch.empty(0, device=device)
            except (RuntimeError, AssertionError) as error:
                raise UserError(f"device {device!r} is not available here: {first_line(error)}") from error
        return device


class MonitorConfig(Table):
    """The interval, in steps, at which conditioning is recorded: `rlr.Monitor`."""

    every: Count = 10
    dense_every: Count | None = None  # layers that stayed dense; None: never

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.dense_every is not None and self.dense_every % self.every:
            raise UserError(f"dense_every = {self.dense_every} must be a multiple of every = {self.every}")
        return self


class TrainConfig(Table):
    """One training run.

    Example:
        >>> config = TrainConfig(method=MethodConfig(name="condlr", tau=0.1, rank=0.25))
        >>> config.training.lr
        0.1

    The same as TOML is read by `load_config`.
    """

    seed: Seed = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    method: MethodConfig = MethodConfig()
    training: TrainingConfig = TrainingConfig()
    monitor: MonitorConfig | None = None  # None: spectra once an epoch are all

    def to_record(self) -> dict[str, Any]:
        """Return the configuration for `run.json`: defaults of method and attack spelled out, infinity as the string "inf"."""
        record = self.model_dump()
        record["training"]["momentum"] = self.training.steady_momentum
        if self.method.name != DENSE:
            record["method"] |= dataclasses.asdict(self.method.method().with_defaults_for("drawn"))  # pyright: ignore[reportArgumentType]
        if self.monitor is None:
            del record["monitor"]
        if self.model.mean is None:
            del record["model"]["mean"], record["model"]["std"]
        for key in READING_KEYS:
            if record["data"][key] in (None, False):
                del record["data"][key]
        if self.training.temperature == 1:
            del record["training"]["temperature"]
        if self.training.on_nonfinite == "stop":
            del record["training"]["on_nonfinite"]
        if self.training.adversarial is None:
            del record["training"]["adversarial"]
        else:
            record["training"]["adversarial"] = self.training.adversarial.complete().model_dump(exclude_none=True)
        return finite(record)

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Return the configuration that `to_record` wrote.

        Raises:
            ValidationError: it is not one.
        """
        return cls.model_validate(infinite(record))


def load_config(path: Path | str) -> TrainConfig:
    """Read the TOML file of one training run.

    Example:
        seed = 0
        [data]
        name = "digits"
        [method]
        name = "condlr"
        tau = 0.1
        rank = 0.25
        [training]
        epochs = 5

    Raises:
        UserError: the file is missing, is not TOML, or has a wrong key, type or value.
    """
    return read_table(Path(path), TrainConfig)


def parse_config(values: Mapping[str, Any], *, source: str) -> TrainConfig:
    """Return the configuration of one training run from nested values such as options of a command.

    Example:
        >>> parse_config({"method": {"name": "dlrt"}}, source="command line").method.rank
        0.25

    Args:
        values: the tables of a TOML file as dictionaries.
        source: what errors call the place that the values come from.

    Raises:
        UserError: a key, type or value is wrong.
    """
    return parse_table(values, TrainConfig, source=source)
