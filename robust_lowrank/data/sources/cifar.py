"""CIFAR-10 is read from torchvision's folder or archive, or from image sheets, a rebuilt tree that is small to keep and to share.

    train_00.webp ...   25 x 40 images of 32 x 32, row by row, in the original order
    test_00.webp ...
    train_labels.npy, test_labels.npy   uint8, one label an image
    index.json          {"sha256": {file name: checksum}}, every file above

The pictures are lossless. The tree may hold fewer images than the original; counts come from the sheets that the index names.
"""

import hashlib
import io
import json
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_lowrank.bounds import read_bounded
from robust_lowrank.data.dataset import Dataset
from robust_lowrank.data.download import download_with, nothing_found
from robust_lowrank.data.npy import read_npy
from robust_lowrank.data.sources import Entry
from robust_lowrank.errors import UserError, first_line, shown

NAME = "cifar10"
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
INDEX = "index.json"
ROWS, COLUMNS, SIDE = 25, 40, 32
SHEETS, FILE = 50, 2**23  # the most of one part, and the most bytes of a file; a sheet has 3 MB before it is packed
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_cifar10(data_dir: Path, *, download: bool) -> Dataset:
    """Load CIFAR-10 from `data_dir` or `data_dir/cifar10`; an archive that lies there is unpacked beside itself.

    torchvision checks the md5 sums of archive and batches before it reads them; files of a rebuilt tree are verified by its index.
    """
    roots = (data_dir, data_dir / NAME)
    for root in roots:
        if (root / INDEX).is_file():
            sums = _read_index(root / INDEX)
            return Dataset(NAME, CLASSES, *_read_part(root, "train", sums), *_read_part(root, "test", sums))
        if (root / FOLDER).is_dir() or (root / ARCHIVE).is_file():
            return _from_torchvision(root, download=download)
    if download:
        return _from_torchvision(data_dir, download=True)
    raise nothing_found(NAME, data_dir, f"{FOLDER}/, {ARCHIVE}, or {INDEX} of a rebuilt tree", roots)


def _from_torchvision(root: Path, *, download: bool) -> Dataset:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    archive = root / ARCHIVE
    sound = check_integrity(str(archive), CIFAR10.tgz_md5)
    if archive.is_file() and not sound and not download:
        raise UserError(f"{archive} is damaged: its md5 differs; get it anew with --download (in Python download=True)")
    if sound or download:
        download_with(NAME, lambda: CIFAR10(str(root), download=True))
    try:
        parts = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise UserError(
            f"{root / FOLDER} is damaged or incomplete: its md5 sums differ; get it anew with --download (in Python download=True)"
        ) from error
    train, test = (
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets, dtype=torch.int64))
        for part in parts
    )
    return Dataset(NAME, CLASSES, *train, *test)


def _read_index(path: Path) -> dict[str, str]:
    try:
        sums = json.loads(read_bounded(path))["sha256"]
        return {str(name): str(checksum) for name, checksum in sums.items()}
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{shown(path)} is not the index of a rebuilt data set: it must hold {{'sha256': {{file: checksum}}}}"
        ) from error


def _read_part(folder: Path, part: str, sums: dict[str, str]) -> tuple[Tensor, Tensor]:
    names = sorted(name for name in sums if re.fullmatch(rf"{part}_\d+\.webp", name))
    if not names:
        raise UserError(f"{shown(folder / INDEX)} names no sheet {part}_00.webp")
    if len(names) > SHEETS:
        raise UserError(f"{shown(folder / INDEX)} names {len(names)} sheets {part}_00.webp and on: there are at most {SHEETS}")
    images = torch.cat([_read_sheet(folder / name, sums[name]) for name in names])
    path = folder / f"{part}_labels.npy"
    content = _read_verified(path, sums.get(path.name, ""))
    labels = read_npy(io.BytesIO(content), len(content), shown(path))
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{path} must hold {len(images)} integers, one an image, not {labels.shape} {labels.dtype}")
    return images, torch.from_numpy(labels.astype(np.int64))


def _read_sheet(path: Path, checksum: str) -> Tensor:
    from PIL import Image

    content = _read_verified(path, checksum)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a file and does no harm
            with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
                if image.size != (COLUMNS * SIDE, ROWS * SIDE):
                    found, due = (f"{width} x {height}" for width, height in (image.size, (COLUMNS * SIDE, ROWS * SIDE)))
                    raise UserError(f"{shown(path)} is {found} pixels, a sheet is {due}")
                pixels = np.array(image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # pillow raises nearly anything on damaged files
        raise UserError(f"{shown(path)} is not a picture: {shown(first_line(error))}") from error
    grid = torch.from_numpy(pixels).reshape(ROWS, SIDE, COLUMNS, SIDE, 3)
    return grid.permute(0, 2, 4, 1, 3).reshape(ROWS * COLUMNS, 3, SIDE, SIDE)


def _read_verified(path: Path, checksum: str) -> bytes:
    try:
        content = read_bounded(path, most=FILE)
    except UserError as error:
        raise UserError(f"{error} (it is named in {INDEX})") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise UserError(f"{shown(path)} is damaged: its sha256 is not the one in {INDEX}")
    return content


ENTRIES = {NAME: Entry(load_cifar10, (3, 32, 32), "50,000 + 10,000 colour photographs of 32 x 32", CLASSES)}
