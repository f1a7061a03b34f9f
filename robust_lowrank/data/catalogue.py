"""The catalogue finds the data sets that the modules of `sources` list, and loads them by name."""

import os
from importlib import import_module
from math import prod
from pathlib import Path
from pkgutil import iter_modules

from robust_lowrank.data import sources
from robust_lowrank.data.dataset import Dataset
from robust_lowrank.data.sources import Entry
from robust_lowrank.errors import UserError, unknown_name

DATA_DIR_VARIABLE = "RLR_DATA_DIR"


_MODULES = (import_module(module.name) for module in iter_modules(sources.__path__, f"{sources.__name__}."))
_PAIRS = [pair for module in _MODULES for pair in module.ENTRIES.items()]
DATASETS: dict[str, Entry] = dict(sorted(_PAIRS, key=lambda pair: prod(pair[1].input_shape)))  # from small images on


def default_data_dir() -> Path:
    """Return `$RLR_DATA_DIR`, or `~/.cache/robust-lowrank` without it."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or Path.home() / ".cache" / "robust-lowrank")


def load(name: str, *, data_dir: Path | str | None = None, download: bool = False) -> Dataset:
    """Load a data set by name.

    Example:
        >>> load("digits").train_x.shape
        torch.Size([1297, 1, 8, 8])

    Args:
        name: one of `DATASETS`.
        data_dir: where its files lie or shall lie; `default_data_dir()` if None.
        download: fetch them there when they are missing.

    Raises:
        UserError: the name is unknown; the files are missing, damaged, or could not be fetched.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if data_dir is not None and not root.is_dir() and not download:
        raise UserError(f"the data directory {root} does not exist; point --data-dir at the files, or fetch them with --download")
    return DATASETS[name].load(root, download=download)
