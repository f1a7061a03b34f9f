"""Hostile files of data and configurations, given to what reads them: refused at once, without a gigabyte, and nothing runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robust_lowrank.data import Reading, load
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import load_suite
from robust_lowrank.jobs import load_experiment
from robust_lowrank.training import load_config
from tests.hostile import data, tables
from tests.hostile.measuring import cost

Maker = Callable[[Path], Path]
LARGE = {"make_bomb_npz", "make_many_examples_npz", "make_bomb_gz", "make_overlong_gz", "make_huge_toml", "make_many_scans_jpeg"}
READ_ALL_THE_SAME = {"make_many_frames_gif"}  # a first frame is an image like any other


def makers(module: object) -> list[object]:
    """Return the makers of a module; those whose files take seconds are slow."""
    found = {name: value for name, value in vars(module).items() if name.startswith("make_")}
    return [pytest.param(maker, id=name, marks=[pytest.mark.slow] * (name in LARGE)) for name, maker in found.items()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    import torchvision.datasets  # noqa: F401 so that no fork pays for it

    torch.set_num_threads(1)  # a fork has none of the threads
    return tmp_path


@pytest.mark.parametrize("make", makers(data))
def test_data(make: Maker, folder: Path) -> None:
    path = make(folder)
    before = contents(folder)
    name, place = ("cifar10" if "cifar" in path.name or "index" in path.name else "mnist", path)
    known = path.is_dir() and ("idx" in path.name or "gz" in path.name or name == "cifar10")
    spent = cost(lambda: load(name, data_dir=place) if known else load(str(path)))
    assert spent.refused or make.__name__ in READ_ALL_THE_SAME, spent
    assert_bounded(spent)
    assert contents(folder) == before
    assert not (folder / data.MARKER).exists()


@pytest.mark.parametrize("read", [load_config, load_experiment, load_suite])
@pytest.mark.parametrize("make", makers(tables))
def test_tables(make: Maker, read: Callable[[Path], object], folder: Path) -> None:
    path = make(folder)
    spent = cost(lambda: read(path))
    assert spent.refused, spent
    assert_bounded(spent)


def test_images_that_are_large_for_their_files_are_broken_ones(folder: Path) -> None:
    with pytest.raises(UserError, match=r"80,000,000 pixels in .* as in a decompression bomb"):
        load(str(data.make_bomb_png(folder)), reading=Reading(8))


def contents(folder: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def assert_bounded(spent: object) -> None:
    assert spent.seconds < 5, spent
    assert spent.growth < 2**30, spent
    assert 1 <= len(spent.said.splitlines() or [""]) <= 3, spent
    assert len(spent.said) < 1200, spent
