"""The digits come with scikit-learn: 1,797 images of 8 x 8 that need no download."""

from pathlib import Path
from typing import Any

import torch

from robust_lowrank.data.dataset import Dataset
from robust_lowrank.data.sources import DIGITS, Entry

TEST_IMAGES = 500
SPLIT_SEED = 0  # of the stratified split; fixed, so that runs with different seeds share their test images


def load_digits(data_dir: Path, *, download: bool) -> Dataset:
    """Return 1,297 training and 500 test digits, every class in the same proportion in both.

    `data_dir` and `download` are not used: the images come with scikit-learn.
    """
    from sklearn import datasets, model_selection

    bunch: Any = datasets.load_digits()
    labels = torch.from_numpy(bunch.target).long()
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)  # the pixels count to 16
    train, test = model_selection.train_test_split(
        torch.arange(len(labels)), test_size=TEST_IMAGES, stratify=labels, random_state=SPLIT_SEED
    )
    return Dataset("digits", DIGITS, images[train], labels[train], images[test], labels[test])


ENTRIES = {"digits": Entry(load_digits, (1, 8, 8), "1,797 digits of 8 x 8 that scikit-learn ships; no download", DIGITS)}
