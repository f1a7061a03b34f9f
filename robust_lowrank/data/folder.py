"""A directory of images becomes a data set."""

from pathlib import Path

import torch

from robust_lowrank.data.dataset import Dataset, Examples, unit_range
from robust_lowrank.data.decoding import read_images
from robust_lowrank.data.layout import Layout, Picture, read_layout
from robust_lowrank.data.reading import Progress, Reading, listed
from robust_lowrank.data.splitting import divide, shuffled
from robust_lowrank.errors import UserError, shown


def load_folder(name: str, root: Path, reading: Reading, progress: Progress) -> Dataset:
    """Return the images of a directory to train and to test on, both in the order of their names' hashes.

    Raises:
        UserError: as `read_layout` and `read_images`, or there are none to train or to test on.
    """
    layout = read_layout(root)
    if not layout.train and not layout.whole:
        raise UserError(f"{shown(root)} has images to test on alone: a folder train is missing")
    train, test, said = _parts(root, layout, reading)
    pictures = [*train, *test]
    images, kept, done = read_images(root, pictures, reading, progress)
    cut = sum(number < len(train) for number in kept)
    labels = torch.tensor([pictures[number].label for number in kept])
    if lost := sorted(set(range(len(layout.classes))) - set(labels[:cut].tolist())):
        raise UserError(f"{shown(root)}: no sound image to train on of {listed(shown(layout.classes[label]) for label in lost)}")
    remarks = (*layout.remarks, *said, *done)
    return Dataset(name, layout.classes, images[:cut], labels[:cut], images[cut:], labels[cut:], remarks)


def folder_examples(root: Path, reading: Reading, progress: Progress) -> Examples:
    """Return the images of a directory to test on, or all if nothing divides them, in the order of their names' hashes.

    Raises:
        UserError: as `read_layout` and `read_images`.
    """
    layout = read_layout(root)
    pictures = _shuffled(layout.test or layout.whole)
    images, kept, done = read_images(root, pictures, reading, progress)
    labels = torch.tensor([pictures[number].label for number in kept])
    note = "test part of a directory" if layout.test else "directory"
    return Examples(unit_range(images), labels, f"{note}, bytes divided by 255", layout.classes, (*layout.remarks, *done))


def _parts(root: Path, layout: Layout, reading: Reading) -> tuple[list[Picture], list[Picture], list[str]]:
    if layout.train:
        unused = [] if reading.test_fraction is None else ["test_fraction is not used: a folder holds the images to test on"]
        return _shuffled(layout.train), _shuffled(layout.test), unused
    pictures = layout.whole
    parts, remarks = divide(
        [picture.label for picture in pictures],
        [picture.name for picture in pictures],
        reading,
        classes=layout.classes,
        where=shown(root),
        by="file names",
    )
    train, test = ([pictures[index] for index in indices] for indices in parts)
    return train, test, remarks


def _shuffled(pictures: list[Picture]) -> list[Picture]:
    return [pictures[index] for index in shuffled([picture.name for picture in pictures])]
