"""Configurations of training runs are read from TOML files or nested values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust_lowrank.tables import parse_table, read_table
from robust_lowrank.training.config import TrainConfig


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
