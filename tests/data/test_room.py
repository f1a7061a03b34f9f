"""Images beyond the memory lie in a file."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from PIL import Image

from robust_lowrank import data
from robust_lowrank.data import room as module
from robust_lowrank.data.room import KEPT_FREE, room
from robust_lowrank.errors import UserError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def without_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(module, "available_memory", lambda: 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A directory of images of which the first to be read are grey, and some in colour."""
    draw = torch.Generator().manual_seed(0)
    for number in range(24):
        shape = (8, 6) if number % 3 else (8, 6, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw).numpy()
        path = tmp_path / "photos" / ("train" if number < 16 else "test") / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def test_a_folder_beyond_the_memory_is_the_folder(photos: Path, without_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beyond = data.load(str(photos))
    assert not [path for path in without_memory.iterdir() if path != photos]  # its file has no name
    monkeypatch.setattr(module, "available_memory", lambda: None)
    within = data.load(str(photos))
    assert beyond.train_images.shape == (16, 3, 8, 6)
    for part in ("train_images", "train_y", "test_images", "test_y"):
        assert torch.equal(getattr(beyond, part), getattr(within, part))
    assert data.digest(beyond.train_images, beyond.train_y) == data.digest(within.train_images, within.train_y)


def test_what_fits_nowhere_is_refused_with_the_remedy(without_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2 * KEPT_FREE, 0, KEPT_FREE + 5))
    assert room((5,), "five bytes").shape == (5,)
    with pytest.raises(UserError, match=r"six bytes would take .* Set TMPDIR"):
        room((6,), "six bytes")
    assert list(without_memory.iterdir()) == []
