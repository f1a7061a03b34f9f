"""Sources read data sets: each module of this package lists its own, by name, in `ENTRIES`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from robust_lowrank.data.dataset import Dataset


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
