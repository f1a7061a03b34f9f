"""Reading configurations: TOML files and tables of values, with errors that name file, key and remedy."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.training.config import TrainConfig
from robust_lowrank.training.experiment import Experiment

_Config = TypeVar("_Config", TrainConfig, Experiment)


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
    return _load(Path(path), TrainConfig)


def load_experiment(path: Path | str) -> Experiment:
    """Read the TOML file of an experiment: as for one run, with `name`, `seeds`, `[[methods]]` and `[[attacks]]`.

    Raises:
        UserError: the file is missing, is not TOML, or has a wrong key, type or value.
    """
    return _load(Path(path), Experiment)


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
    return _validate(values, TrainConfig, source)


def _load(path: Path, kind: type[_Config]) -> _Config:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    return _validate(values, kind, str(path))


def _validate(values: Mapping[str, Any], kind: type[_Config], source: str) -> _Config:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        telling = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # a misspelt key, not its absence
        raise UserError(f"{source}: {_message(telling, kind)}") from error


def _message(error: Any, kind: type[BaseModel]) -> str:
    path, table = _locate(error["loc"], kind)
    match error["type"]:
        case "extra_forbidden":
            where = f" in [{path}]" if path else ""
            return f"{unknown_name('key', str(error['loc'][-1]), table.model_fields)}{where}"
        case "missing":
            return f"{path} is missing"
        case "value_error":
            reason = str(error["ctx"]["error"])
        case _:
            reason = f"{error['msg']}, not {error['input']!r}"
    return f"{path}: {reason}" if path else reason


def _locate(location: tuple[int | str, ...], table: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """Return the dotted path of an error's location, without pydantic's type tags, and the innermost table on it."""
    path = []
    for part in location:
        if isinstance(part, int):
            path.append(str(part))
        elif part in table.model_fields:
            path.append(part)
            annotation = table.model_fields[part].annotation
            candidates = (annotation, *get_args(annotation))
            table = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), table)
    return ".".join(path), table
