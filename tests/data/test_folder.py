from pathlib import Path

import pytest
import torch
from PIL import Image

from robust_lowrank.data import Reading, digest, load, load_examples
from robust_lowrank.errors import UserError
from tests.data.pictures import drawn, folder


def digests(data) -> tuple[str, str]:
    return digest(data.train_images, data.train_y), digest(data.test_images, data.test_y)


def test_parts_are_those_of_the_directory(tmp_path: Path) -> None:
    data = load(str(folder(tmp_path, {"train/cat": 3, "train/dog": 4, "test/cat": 2, "test/dog": 1})))
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 6, 8)
    assert data.train_images.dtype == torch.uint8
    assert data.train_y.bincount().tolist() == [3, 4]
    assert data.test_y.bincount().tolist() == [2, 1]
    seen = {
        image.permute(1, 2, 0).numpy().tobytes(): int(label) for image, label in zip(data.test_images, data.test_y, strict=True)
    }
    assert seen == {drawn(7).tobytes(): 0, drawn(8).tobytes(): 0, drawn(9).tobytes(): 1}
    assert data.remarks == ("the images in test are those to test on", "three channels, RGB")


def test_one_part_is_split(tmp_path: Path) -> None:
    data = load(str(folder(tmp_path, {"cat": 10, "dog": 20})), reading=Reading(test_fraction=0.3))
    assert data.train_y.bincount().tolist() == [7, 14]
    assert data.test_y.bincount().tolist() == [3, 6]
    assert "split by file names: 21 images to train on, 9 (30%) to test on" in data.remarks
    both = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == 30


def test_the_same_directory_elsewhere_is_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"cat": 6, "dog": 6}
    first, second = load(str(folder(tmp_path / "a", counts))), load(str(folder(tmp_path / "b", counts)))
    assert digests(first) == digests(second)
    monkeypatch.chdir(tmp_path)
    relative = load("./a")
    assert digests(relative) == digests(first)
    assert relative.name == "./a"
    assert digests(load("a")) == digests(first)


def test_broken_images_are_left_out_of_their_own_part(tmp_path: Path) -> None:
    folder(tmp_path, {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 2})
    whole = load(str(tmp_path))
    for name in ("train/cat/1.png", "test/dog/0.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(UserError, match="2 of 10 images"):
        load(str(tmp_path))
    data = load(str(tmp_path), reading=Reading(skip_broken=True))
    assert data.train_y.bincount().tolist() == [2, 3]
    assert data.test_y.bincount().tolist() == [2, 1]
    kept = {image.numpy().tobytes() for image in whole.test_images}
    assert {image.numpy().tobytes() for image in data.test_images} < kept
    assert "2 broken images left out: cat/1.png, dog/0.png" in data.remarks
    for number in range(3):
        (tmp_path / f"train/cat/{number}.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="no sound image to train on of cat"):
        load(str(tmp_path), reading=Reading(skip_broken=True))


def test_images_to_test_on_alone(tmp_path: Path) -> None:
    folder(tmp_path, {"test/cat": 3, "test/dog": 3})
    with pytest.raises(UserError, match="a folder train is missing"):
        load(str(tmp_path))
    examples = load_examples(str(tmp_path))
    assert examples.x.dtype == torch.float32
    assert examples.y.bincount().tolist() == [3, 3]
    assert examples.classes == ("cat", "dog")


def test_examples_are_the_test_part_or_all(tmp_path: Path) -> None:
    parts = folder(tmp_path / "parts", {"train/cat": 3, "train/dog": 3, "val/cat": 1, "val/dog": 2})
    assert torch.equal(load_examples(str(parts)).x, load(str(parts)).test_x)
    assert len(load_examples(str(folder(tmp_path / "whole", {"cat": 3, "dog": 3}))).y) == 6


def test_three_images_are_enough(tmp_path: Path) -> None:
    data = load(str(folder(tmp_path, {"cat": 2, "dog": 1})))
    assert (len(data.train_y), len(data.test_y)) == (2, 1)
    assert "no image to test on of dog" in data.remarks


def test_images_of_one_pixel(tmp_path: Path) -> None:
    data = load(str(folder(tmp_path, {"cat": 2, "dog": 2}, height=1, width=1)))
    assert data.input_shape == (3, 1, 1)


def test_sizes_in_the_two_parts_must_agree_too(tmp_path: Path) -> None:
    folder(tmp_path, {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    Image.fromarray(drawn(0, height=5)).save(tmp_path / "test/dog/0.png")
    with pytest.raises(UserError, match=r"6 x 8 \(5\), 5 x 8 \(1\)"):
        load(str(tmp_path))
    assert load(str(tmp_path), reading=Reading(size=(4, 6))).input_shape == (3, 4, 6)
