"""MNIST and Fashion-MNIST are read from idx files, packed or not, checked by their heads and sha256."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from robust_lowrank.bounds import regular_size, require_proportion
from robust_lowrank.data.dataset import Dataset
from robust_lowrank.data.download import download_with, nothing_found
from robust_lowrank.data.sources import DIGITS, Entry
from robust_lowrank.errors import UserError, shown

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

GARMENTS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

UNSIGNED_BYTES = 0x08  # the type code of idx that all these files use
DIMENSIONS = 3


@dataclass(frozen=True)
class IdxSource:
    """A data set of four idx files: its name, that in torchvision, its classes, the sha256 of each unpacked file.

    The file names of MNIST and Fashion-MNIST are the same, so only the contents tell which one a folder holds.
    """

    name: str
    torchvision: str
    classes: tuple[str, ...]
    sha256: dict[str, str]

    def __call__(self, data_dir: Path, *, download: bool) -> Dataset:
        """Load from `data_dir`: the files lie in it, in `data_dir/NAME`, or where torchvision puts them."""
        folders = (data_dir / self.torchvision / "raw", data_dir / self.name, data_dir)
        paths = _locate(folders)
        if not paths and download:
            from torchvision import datasets

            download_with(self.name, lambda: getattr(datasets, self.torchvision)(root=str(data_dir), train=True, download=True))
            paths = _locate(folders)
        if not paths:
            raise nothing_found(self.name, data_dir, f"{FILES[0]}.gz and its three companions, packed or not", folders)
        arrays = {name: read_idx(path, sha256=self.sha256[name], what=self.name) for name, path in paths.items()}
        train = arrays[TRAIN_IMAGES].unsqueeze(1), arrays[TRAIN_LABELS].long()
        test = arrays[TEST_IMAGES].unsqueeze(1), arrays[TEST_LABELS].long()
        return Dataset(self.name, self.classes, *train, *test)


def read_idx(path: Path, *, sha256: str, what: str) -> Tensor:
    """Return the uint8 array of an idx file (`.gz` files are unpacked in memory, no further than their head announces).

    Raises:
        UserError: the file is damaged, or its contents are not those with this sha256.
    """
    size, packed = regular_size(path), path.suffix == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            head, shape = _head(path, file)
            announced = math.prod(shape)
            if not announced:
                raise UserError(f"{shown(path)} announces no bytes: get it anew")
            if packed:
                require_proportion(announced, size, shown(path), "get it anew")
            elif announced != size - len(head):
                raise UserError(f"{shown(path)} announces {announced:,} bytes and holds {size - len(head):,}")
            data = file.read(announced + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{shown(path)} cannot be read: {error}") from error
    if len(data) != announced:
        raise UserError(
            f"{shown(path)} announces {announced:,} bytes and holds {'more' if len(data) > announced else f'{len(data):,}'}"
        )
    if hashlib.sha256(head + data).hexdigest() != sha256:
        wrong = f"{shown(path)} is not the file of {what}, or is damaged: its sha256 differs"
        raise UserError(f"{wrong}\nGet it anew, or point --data-dir (in Python data_dir) elsewhere")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(shape)


def _head(path: Path, file: IO[bytes] | gzip.GzipFile) -> tuple[bytes, list[int]]:
    """Return the head of an idx file and the shape that it announces."""
    kind = file.read(4)
    if kind[:3] != bytes((0, 0, UNSIGNED_BYTES)) or len(kind) < 4 or not 1 <= kind[3] <= DIMENSIONS:
        raise UserError(f"{shown(path)} is not an idx file of unsigned bytes with at most {DIMENSIONS} dimensions")
    sizes = file.read(4 * kind[3])
    if len(sizes) < 4 * kind[3]:
        raise UserError(f"{shown(path)} ends within its head")
    return kind + sizes, [int.from_bytes(sizes[start : start + 4], "big") for start in range(0, len(sizes), 4)]


def _places(folder: Path, name: str) -> Iterator[Path]:
    """Yield under which names a file may lie in a folder, those that come first last."""
    for written in (name.replace("-idx", ".idx"), name):  # with a dot where it has been unpacked by other tools
        yield from (folder / f"{written}.gz", folder / written)


def _locate(folders: tuple[Path, ...]) -> dict[str, Path]:
    for folder in folders:
        paths = {name: path for name in FILES for path in _places(folder, name) if path.is_file()}
        if len(paths) == len(FILES):
            return paths
    return {}


MNIST = IdxSource(
    name="mnist",
    torchvision="MNIST",
    classes=DIGITS,
    sha256={
        TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)

FASHION_MNIST = IdxSource(
    name="fashion-mnist",
    torchvision="FashionMNIST",
    classes=GARMENTS,
    sha256={
        TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
)

ENTRIES = {
    "mnist": Entry(MNIST, (1, 28, 28), "60,000 + 10,000 digits of 28 x 28", DIGITS),
    "fashion-mnist": Entry(FASHION_MNIST, (1, 28, 28), "60,000 + 10,000 garments of 28 x 28", GARMENTS),
}
