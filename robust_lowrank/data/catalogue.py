"""`DATASETS` names the data sets and loads them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from robust_lowrank.data.cifar import load_cifar10
from robust_lowrank.data.dataset import Dataset
from robust_lowrank.data.digits import load_digits
from robust_lowrank.data.idx import FASHION_MNIST, MNIST
from robust_lowrank.errors import UserError, unknown_name

DATA_DIR_VARIABLE = "RLR_DATA_DIR"


class Loader(Protocol):
    """Reads a data set from a directory, fetching it first if that is allowed and needed."""

    def __call__(self, data_dir: Path, *, download: bool) -> Dataset:
        """Return the data set."""
        ...


@dataclass(frozen=True)
class Entry:
    """A data set's description, without its images."""

    load: Loader
    input_shape: tuple[int, int, int]
    num_classes: int
    summary: str
    classes: tuple[str, ...]  # their names


DIGITS = tuple("0123456789")
GARMENTS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

DATASETS = {
    "digits": Entry(load_digits, (1, 8, 8), 10, "1,797 digits of 8 x 8 that scikit-learn ships; no download", DIGITS),
    "mnist": Entry(MNIST, (1, 28, 28), 10, "60,000 + 10,000 digits of 28 x 28", DIGITS),
    "fashion-mnist": Entry(FASHION_MNIST, (1, 28, 28), 10, "60,000 + 10,000 garments of 28 x 28", GARMENTS),
    "cifar10": Entry(load_cifar10, (3, 32, 32), 10, "50,000 + 10,000 colour photographs of 32 x 32", THINGS),
}


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
