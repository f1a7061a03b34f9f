"""Sources read data sets: each module of this package lists its own, by name, in `ENTRIES`."""

from collections.abc import Callable
from dataclasses import dataclass

from robust_lowrank.data.dataset import Dataset, Description


@dataclass(frozen=True)
class Entry:
    """A data set's description, without its images."""

    load: Callable[..., Dataset]  # (data_dir, *, download): reads it from a directory, fetched first if allowed and needed
    input_shape: tuple[int, int, int]
    summary: str
    classes: tuple[str, ...]  # their names

    @property
    def description(self) -> Description:
        """What is known of it beside the images."""
        return Description(self.input_shape, self.classes)


DIGITS = tuple("0123456789")
