"""CIFAR-10 rebuilt as image sheets: a folder of lossless pictures of 1,000 images each, small to keep and to share.

    train_00.webp ...   25 x 40 images of 32 x 32, row by row, in the original order
    test_00.webp ...
    train_labels.npy, test_labels.npy   uint8, one label an image
    index.json          {"sha256": {file name: checksum}}, every file above

The tree may hold fewer images than the original; counts come from the sheets that the index names.
"""

import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_lowrank.data.dataset import Dataset
from robust_lowrank.errors import UserError

INDEX = "index.json"
ROWS, COLUMNS, SIDE = 25, 40, 32


def read_sheets(folder: Path, *, name: str) -> Dataset:
    """Return the data set of a rebuilt tree, every file verified against the index.

    Raises:
        UserError: a file is missing, differs from its checksum or does not have the form above.
    """
    sums = _read_index(folder / INDEX)
    train_images, train_y = _read_part(folder, "train", sums)
    test_images, test_y = _read_part(folder, "test", sums)
    return Dataset(
        name=name,
        num_classes=10,
        train_images=train_images,
        train_y=train_y,
        test_images=test_images,
        test_y=test_y,
    )


def _read_index(path: Path) -> dict[str, str]:
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        return {str(name): str(checksum) for name, checksum in sums.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not the index of a rebuilt data set: it must hold {{'sha256': {{file: checksum}}}}") from error


def _read_part(folder: Path, part: str, sums: dict[str, str]) -> tuple[Tensor, Tensor]:
    names = sorted(name for name in sums if re.fullmatch(rf"{part}_\d+\.webp", name))
    if not names:
        raise UserError(f"{folder / INDEX} names no sheet {part}_00.webp")
    images = torch.cat([_read_sheet(folder / name, sums[name]) for name in names])
    path = folder / f"{part}_labels.npy"
    content = _verified(path, sums.get(path.name, ""))
    try:
        labels = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not a table of labels: {error}") from error
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path} must hold {len(images)} integers, one an image, not {labels.shape} {labels.dtype}")
    return images, torch.from_numpy(labels.astype(np.int64))


def _read_sheet(path: Path, checksum: str) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    content = _verified(path, checksum)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.size != (COLUMNS * SIDE, ROWS * SIDE):
                raise UserError(f"{path} is {image.size[0]} x {image.size[1]} pixels, a sheet is {COLUMNS * SIDE} x {ROWS * SIDE}")
            pixels = np.array(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path} is not a picture: {error}") from error
    grid = torch.from_numpy(pixels).reshape(ROWS, SIDE, COLUMNS, SIDE, 3)
    return grid.permute(0, 2, 4, 1, 3).reshape(ROWS * COLUMNS, 3, SIDE, SIDE)


def _verified(path: Path, checksum: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}, named in {INDEX}, cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise UserError(f"{path} is damaged: its sha256 is not the one in {INDEX}")
    return content
