"""Data that come in one part are divided into images to train and to test on, the same way every time."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from robust_lowrank.data.reading import TEST_FRACTION, Reading, counted, listed
from robust_lowrank.errors import UserError, shown


class Split(NamedTuple):
    """The indices of both parts."""

    train: list[int]
    test: list[int]


def shuffled(names: Sequence[str]) -> list[int]:
    """Return the indices of names in the order of the names' hashes, so that the first of them are of every class."""
    return sorted(range(len(names)), key=lambda index: hashlib.sha256(names[index].encode("utf-8", "surrogateescape")).digest())


def split(labels: Sequence[int], names: Sequence[str], fraction: float) -> Split:
    """Take the same fraction of every class to test on: the images whose names have the smallest hashes.

    An image stays in its part whatever order images are listed in, and mostly when others are added. A class of two images or
    more has one at least in each part, and one image is to train on.

    Example:
        >>> split([0, 0, 0, 1, 1, 1], ["a", "b", "c", "d", "e", "f"], 0.3)
        Split(train=[5, 1, 4, 0], test=[3, 2])
    """
    classes: dict[int, list[int]] = defaultdict(list)
    order = shuffled(names)
    for index in order:
        classes[labels[index]].append(index)
    test = {index for members in classes.values() for index in members[: _share(len(members), fraction)]}
    return Split([index for index in order if index not in test], [index for index in order if index in test])


def divide(
    labels: Sequence[int], names: Sequence[str], reading: Reading, *, classes: Sequence[str], where: str, by: str
) -> tuple[Split, list[str]]:
    """Split examples as they are to be read, and say so.

    Raises:
        UserError: every class has one image, so that none is left to test on.
    """
    fraction = TEST_FRACTION if reading.test_fraction is None else reading.test_fraction
    parts = split(labels, names, fraction)
    if not parts.test:
        raise UserError(f"{where} has one image a class: none is left to test on; give two a class at least")
    remarks = [f"split by {by}: {counted(len(parts.train), 'image')} to train on, {len(parts.test):,} ({fraction:.0%}) to test on"]
    if single := sorted(label for label, count in Counter(labels).items() if count == 1):
        remarks.append(f"no image to test on of {listed(shown(classes[label]) for label in single)}")
    return parts, remarks


def _share(count: int, fraction: float) -> int:
    return min(max(round(count * fraction), 1), count - 1)
