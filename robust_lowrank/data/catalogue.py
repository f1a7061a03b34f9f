"""The catalogue finds the data sets that the modules of `sources` list, and loads them by name; others it loads by path."""

import os
from importlib import import_module
from math import prod
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from robust_lowrank.bounds import regular_size
from robust_lowrank.data import sources
from robust_lowrank.data.arrays import SUFFIXES
from robust_lowrank.data.dataset import Dataset, Description, Examples
from robust_lowrank.data.folder import folder_examples, load_folder
from robust_lowrank.data.reading import Progress, Reading, quiet
from robust_lowrank.data.sources import Entry
from robust_lowrank.data.stored import load_stored, stored_examples
from robust_lowrank.errors import UserError, shown, unknown_name

DATA_DIR_VARIABLE = "RLR_DATA_DIR"


_MODULES = (import_module(module.name) for module in iter_modules(sources.__path__, f"{sources.__name__}."))
_PAIRS = [pair for module in _MODULES for pair in module.ENTRIES.items()]
DATASETS: dict[str, Entry] = dict(sorted(_PAIRS, key=lambda pair: prod(pair[1].input_shape)))  # from small images on


def default_data_dir() -> Path:
    """Return `$RLR_DATA_DIR`, or `~/.cache/robust-lowrank` without it."""
    return Path(os.environ.get(DATA_DIR_VARIABLE) or Path.home() / ".cache" / "robust-lowrank")


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    download: bool = False,
    reading: Reading = Reading(),  # noqa: B008 it is frozen
    progress: Progress = quiet,
) -> Dataset:
    """Load a data set by name, or one of your own by its path.

    Example:
        >>> load("digits").train_x.shape
        torch.Size([1297, 1, 8, 8])
        >>> load("photos", reading=Reading(size=32)).classes  # doctest: +SKIP
        ('cat', 'dog')

    Args:
        name: one of `DATASETS`, a directory of images, or a `.npz` or `.safetensors` file.
        data_dir: where the files of one of `DATASETS` lie or shall lie; `default_data_dir()` if None.
        download: fetch them there when they are missing.
        reading: how data of your own are read.
        progress: called with the number of images read, of all, while a directory is.

    Raises:
        UserError: the name is unknown; files are missing, damaged, could not be fetched, or hold something else.
    """
    if name not in DATASETS:
        path = _own(name, data_dir, download)
        return load_folder(name, path, reading, progress) if path.is_dir() else load_stored(name, path, reading)
    _refuse_reading(name, reading)
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if data_dir is not None and not root.is_dir() and not download:
        raise UserError(
            f"the data directory {root} does not exist; point --data-dir (in Python data_dir) at the files,\n"
            "or fetch them with --download (download=True)"
        )
    return DATASETS[name].load(root, download=download)


def load_examples(
    name: str,
    *,
    data_dir: Path | str | None = None,
    download: bool = False,
    reading: Reading = Reading(),  # noqa: B008 as in `load`
    progress: Progress = quiet,
) -> Examples:
    """Return what a network from elsewhere is attacked on: the test part of a data set, or all of one that has a single part.

    Example:
        >>> load_examples("digits").x.shape
        torch.Size([500, 1, 8, 8])

    Arguments and errors are those of `load`; inputs in a file of arrays need not be images.
    """
    if name in DATASETS:
        data = load(name, data_dir=data_dir, download=download, reading=reading)
        return Examples(data.test_x, data.test_y, f"test part of {name}", data.classes)
    path = _own(name, data_dir, download)
    return folder_examples(path, reading, progress) if path.is_dir() else stored_examples(path, reading)


def describe(name: str, **options: Any) -> Description:
    """Return what is known of a data set beside its images; those of the catalogue are not loaded for it.

    Arguments and errors are those of `load`.
    """
    return DATASETS[name].description if name in DATASETS else load(name, **options).description


def _own(name: str, data_dir: Path | str | None, download: bool) -> Path:
    """Return the directory or file that a name stands for."""
    if name != name.encode("utf-8", "replace").decode():
        raise UserError(f"{shown(name)} is not valid UTF-8, and records are: rename it")
    path = Path(name).expanduser().absolute()
    if not path.is_dir() and not path.is_file():
        if path.exists():
            regular_size(path)
        if path.suffix.lower() in SUFFIXES or Path(name).name != name:
            raise UserError(f"there is nothing at {shown(path)}: name the place of the data")
        unknown = unknown_name("data set", name, DATASETS)
        raise UserError(f"{unknown};\nnor is there anything at {shown(path)}: name the place of data of your own")
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{shown(path)} is neither a directory of images nor a file of arrays, {' or '.join(SUFFIXES)}")
    if data_dir is not None or download:
        option = "--download (download)" if data_dir is None else "--data-dir (data_dir)"
        raise UserError(f"{shown(path)} holds the data itself: leave {option} out")
    return path


def _refuse_reading(name: str, reading: Reading) -> None:
    if other := [key for key, value in vars(reading).items() if value]:
        raise UserError(f"{name} comes as it is: {other[0]} belongs to data of your own")
