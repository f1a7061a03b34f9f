"""CIFAR-10 is read from torchvision's folder or archive, or from image sheets."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_lowrank.data.dataset import Dataset
from robust_lowrank.data.download import download_with, nothing_found
from robust_lowrank.data.sheets import INDEX, read_sheets
from robust_lowrank.errors import UserError

NAME = "cifar10"
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"


def load_cifar10(data_dir: Path, *, download: bool) -> Dataset:
    """Load CIFAR-10 from `data_dir` or `data_dir/cifar10`; an archive that lies there is unpacked beside itself.

    torchvision checks the md5 sums of archive and batches before it reads them.
    """
    roots = (data_dir, data_dir / NAME)
    for root in roots:
        if (root / INDEX).is_file():
            return read_sheets(root, name=NAME)
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
        raise UserError(f"{archive} is damaged: its md5 differs; get it anew with --download")
    if sound or download:
        download_with(NAME, lambda: CIFAR10(str(root), download=True))
    try:
        parts = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise UserError(f"{root / FOLDER} is damaged or incomplete: its md5 sums differ; get it anew with --download") from error
    (train_images, train_y), (test_images, test_y) = (_tensors(part.data, part.targets) for part in parts)
    return Dataset(name=NAME, num_classes=10, train_images=train_images, train_y=train_y, test_images=test_images, test_y=test_y)


def _tensors(images: np.ndarray, labels: list[int]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels, dtype=torch.int64)
