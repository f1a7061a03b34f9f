import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robust_lowrank.data import load
from robust_lowrank.errors import UserError


def images(seed: int) -> np.ndarray:
    """1,000 pictures that differ in every pixel position that a wrong order would exchange."""
    number, row, column, channel = np.ogrid[:1000, :32, :32, :3]
    return ((number * 7 + row * 5 + column * 3 + channel * 31 + seed * 11) % 256).astype(np.uint8)


def sheet(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.reshape(25, 40, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(800, 1280, 3))


def seal(folder: Path) -> None:
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.name != "index.json"}
    (folder / "index.json").write_text(json.dumps({"sha256": sums}))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sheets")
    for name, seed in (("train_00", 0), ("train_01", 1), ("test_00", 2)):
        sheet(images(seed)).save(folder / f"{name}.webp", lossless=True, exact=True, method=0)
    np.save(folder / "train_labels.npy", (np.arange(2000) % 10).astype(np.uint8))
    np.save(folder / "test_labels.npy", (np.arange(1000) % 7).astype(np.uint8))
    seal(folder)
    return folder


@pytest.fixture
def tree(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tree"))


def test_a_rebuilt_tree_gives_every_image_in_order(tree: Path) -> None:
    data = load("cifar10", data_dir=tree)
    wanted = torch.from_numpy(np.concatenate([images(0), images(1)])).permute(0, 3, 1, 2)
    assert torch.equal(data.train_images, wanted)
    assert torch.equal(data.test_images, torch.from_numpy(images(2)).permute(0, 3, 1, 2))
    assert data.train_y.tolist() == [i % 10 for i in range(2000)]


def test_a_tree_may_lie_in_a_folder_of_its_name(tree: Path) -> None:
    tree.rename(tree.parent / "cifar10")
    assert load("cifar10", data_dir=tree.parent).input_shape == (3, 32, 32)


def test_a_changed_sheet_is_refused(tree: Path) -> None:
    sheet(images(9)).save(tree / "train_01.webp", lossless=True, method=0)
    with pytest.raises(UserError, match=r"train_01\.webp is damaged"):
        load("cifar10", data_dir=tree)


def test_a_missing_sheet_is_refused(tree: Path) -> None:
    (tree / "train_01.webp").unlink()
    with pytest.raises(UserError, match=r"train_01\.webp cannot be read: No such file or directory \(it is named in index\.json\)"):
        load("cifar10", data_dir=tree)


def test_pickled_labels_are_never_unpickled(tree: Path) -> None:
    np.save(tree / "train_labels.npy", np.array([{"a": 1}] * 2000), allow_pickle=True)
    seal(tree)
    with pytest.raises(UserError, match="holds pickled objects"):
        load("cifar10", data_dir=tree)


@pytest.mark.parametrize("labels", [np.zeros(1999, np.uint8), np.zeros(2000), np.full(2000, 10, np.uint8)])
def test_labels_must_fit_the_images(labels: np.ndarray, tree: Path) -> None:
    np.save(tree / "train_labels.npy", labels)
    seal(tree)
    with pytest.raises(UserError, match=r"must hold 2000 integers|beyond the classes"):
        load("cifar10", data_dir=tree)


def test_sheets_must_have_their_size(tree: Path) -> None:
    Image.new("RGB", (64, 64)).save(tree / "test_00.webp", lossless=True)
    seal(tree)
    with pytest.raises(UserError, match="64 x 64 pixels, a sheet is 1280 x 800"):
        load("cifar10", data_dir=tree)


@pytest.mark.parametrize("text", ["{", "[]", '{"sha256": 3}', '{"md5": {}}'])
def test_an_index_of_another_form_is_refused(text: str, tree: Path) -> None:
    (tree / "index.json").write_text(text)
    with pytest.raises(UserError, match="not the index of a rebuilt data set"):
        load("cifar10", data_dir=tree)


def test_an_index_cannot_name_files_elsewhere(tree: Path) -> None:
    (tree / "index.json").write_text(json.dumps({"sha256": {"../tree/train_00.webp": "0"}}))
    with pytest.raises(UserError, match="names no sheet"):
        load("cifar10", data_dir=tree)


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"not an archive")
    with pytest.raises(UserError, match="md5 differs"):
        load("cifar10", data_dir=tmp_path)


def test_an_incomplete_torchvision_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="damaged or incomplete"):
        load("cifar10", data_dir=tmp_path)
