"""Images that are stored as arrays become a data set."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from robust_lowrank.data.arrays import Arrays, Part, read_arrays
from robust_lowrank.data.dataset import Dataset, Examples, unit_range
from robust_lowrank.data.reading import Reading, counted, listed
from robust_lowrank.data.splitting import divide
from robust_lowrank.errors import UserError, shown

CHANNELS = (1, 3)


def load_stored(name: str, path: Path, reading: Reading) -> Dataset:
    """Return the images of a file of arrays to train and to test on.

    Parts that the file has stay in its order; of one part both are split by the images' numbers.

    Raises:
        UserError: as `read_arrays`; arrays are no images or not of the size asked for, or labels leave classes out.
    """
    arrays = read_arrays(path)
    classes = _classes(path, arrays)
    train, test, said = _parts(path, arrays, classes, reading)
    images = [_images(path, part, reading) for part in (train, test)]
    remarks = [*said, *_remarks(arrays, train, classes), f"stored as {train.note}, {_layout(train.x)}"]
    return Dataset(name, classes, images[0], train.y, images[1], test.y, tuple(remarks))


def stored_examples(path: Path, reading: Reading) -> Examples:
    """Return the examples of a file of arrays to test on, or all if nothing divides them; what is no image stays as it is.

    Raises:
        UserError: as `read_arrays`, it cannot be told whether channels come first, or they are not of the size asked for.
    """
    arrays = read_arrays(path)
    part = arrays.test or arrays.whole
    assert part is not None
    x = _channels_first(path, part.x)
    _require(path, x, reading)
    note = part.note if x.shape == part.x.shape else f"{part.note}, {_layout(part.x)}"
    unused = [f"arrays not used: {listed(map(shown, arrays.unused))}"] if arrays.unused else []
    return Examples(unit_range(x), part.y, note, arrays.classes or (), tuple(unused))


def _parts(path: Path, arrays: Arrays, classes: tuple[str, ...], reading: Reading) -> tuple[Part, Part, list[str]]:
    if arrays.train is not None and arrays.test is not None:
        unused = [] if reading.test_fraction is None else ["test_fraction is not used: the file holds images to test on"]
        return arrays.train, arrays.test, unused
    whole = arrays.whole
    assert whole is not None
    labels = whole.y.tolist()
    names = [str(number) for number in range(len(labels))]
    parts, remarks = divide(labels, names, reading, classes=classes, where=shown(path), by="number")
    train, test = (Part(whole.x[torch.tensor(part)], whole.y[torch.tensor(part)], whole.note) for part in parts)
    return train, test, remarks


def _images(path: Path, part: Part, reading: Reading) -> Tensor:
    """Return images (N, channels, height, width), bytes or float32."""
    x = _channels_first(path, part.x)
    if x.dim() != 4 or x.shape[1] not in CHANNELS:
        raise UserError(
            f"{shown(path)}: inputs of the shape {tuple(part.x.shape)} are no images: "
            "due is (N, height, width), (N, channels, height, width) or (N, height, width, channels), with 1 or 3 channels"
        )
    _require(path, x, reading)
    return x.contiguous() if x.dtype == torch.uint8 else x.float().contiguous()


def _require(path: Path, x: Tensor, reading: Reading) -> None:
    """Make sure that inputs are of the size and with the channels asked for, to which only images of directories are brought."""
    given = {"size": reading.shape, "channels": reading.channels}
    found = {"size": tuple(x.shape[2:]), "channels": x.shape[1]}
    if other := [key for key, value in given.items() if value not in (None, found[key])]:
        raise UserError(
            f"{shown(path)} has inputs of the shape {tuple(x.shape[1:])}: {other[0]} is of directories alone; leave it out"
        )


def _channels_first(path: Path, x: Tensor) -> Tensor:
    """Return images as (N, channels, height, width), and other inputs as they are.

    Raises:
        UserError: channels may come first or last.
    """
    if x.dim() == 3:
        return x.unsqueeze(1)
    if x.dim() != 4:
        return x
    first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
    if first and last:
        raise UserError(
            f"{shown(path)}: in the shape {tuple(x.shape)} channels may come first or last: store grey images as "
            "(N, height, width), and pad others by numpy.pad so that no side has 1 or 3 pixels"
        )
    return x.permute(0, 3, 1, 2) if last else x


def _layout(x: Tensor) -> str:
    if x.dim() == 3:
        return "without channels, taken as grey"
    return "channels first" if x.shape[1] in CHANNELS else "channels last, put first"


def _classes(path: Path, arrays: Arrays) -> tuple[str, ...]:
    """Return the names of all classes.

    Raises:
        UserError: labels do not count the classes from 0, one is beyond the names, there are fewer than two, or none to train on.
    """
    trained = arrays.train or arrays.whole
    if trained is None:
        raise UserError(f"{shown(path)} has images to test on alone: the arrays train_x and train_y are missing")
    labels = trained.y if arrays.test is None else torch.cat([trained.y, arrays.test.y])
    present, most = trained.y.unique().tolist(), int(labels.max())
    if arrays.classes is not None:
        if most >= len(arrays.classes):
            raise UserError(f"{shown(path)}: a label is {most}, and classes has {len(arrays.classes)} names, for 0 and up")
        count = len(arrays.classes)
    elif len(present) <= most:
        if int(labels.min()) == 1:
            raise UserError(f"{shown(path)}: labels count from 1 to {most}, where classes count from 0: store y - 1")
        gap = next((number for number, label in enumerate(present) if number != label), len(present))
        raise UserError(
            f"{shown(path)}: no image to train on has the label {gap}, and labels go to {most}: store "
            "numpy.unique(y, return_inverse=True)[1] as y, or the names of all classes as classes"
        )
    else:
        count = len(present)
    if count < 2:
        raise UserError(f"{shown(path)} has images of one class: there must be two or more")
    return arrays.classes or tuple(map(str, range(count)))


def _remarks(arrays: Arrays, train: Part, classes: tuple[str, ...]) -> Iterator[str]:
    if arrays.unused:
        yield f"arrays not used: {listed(map(shown, arrays.unused))}"
    if lacking := sorted(set(range(len(classes))) - set(train.y.tolist())):
        yield f"no image to train on of {listed(shown(classes[label]) for label in lacking)}"
    if arrays.test is not None and len(arrays.test.y) > 1 and (arrays.test.y.diff() >= 0).all() and len(arrays.test.y.unique()) > 1:
        yield f"{counted(len(arrays.test.y), 'image')} to test on lie in the order of their classes: the first few are of one class"
