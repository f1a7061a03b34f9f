from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robust_lowrank.data import Reading, digest, load, load_examples
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import evaluate
from tests.data.pictures import drawn, folder

GREY = np.stack([drawn(number, channels=1) for number in range(12)])
COLOUR = np.stack([drawn(number) for number in range(12)])
Y = np.arange(12) % 3


def npz(path: Path, **arrays) -> str:
    np.savez(path / "some.npz", **arrays)
    return str(path / "some.npz")


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (GREY, "without channels, taken as grey"),
        (GREY[:, None], "channels first"),
        (GREY[..., None], "channels last, put first"),
    ],
)
def test_grey_images_in_every_layout(x: np.ndarray, said: str, tmp_path: Path) -> None:
    data = load(npz(tmp_path, train_x=x, train_y=Y, test_x=x, test_y=Y))
    assert np.array_equal(data.train_images.numpy(), GREY[:, None])
    assert data.train_images.is_contiguous()
    assert data.classes == ("0", "1", "2")
    assert f"stored as uint8, divided by 255, {said}" in data.remarks


@pytest.mark.parametrize("x", [COLOUR, COLOUR.transpose(0, 3, 1, 2)])
def test_colour_images_in_both_layouts(x: np.ndarray, tmp_path: Path) -> None:
    data = load(npz(tmp_path, train_x=x, train_y=Y, test_x=x, test_y=Y))
    assert np.array_equal(data.test_images.numpy(), COLOUR.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("shape", [(6, 1, 5, 1), (6, 3, 5, 3), (6, 1, 4, 3), (6, 3, 4, 1)])
def test_where_both_ends_could_be_channels_the_remedy_is_named(shape: tuple[int, ...], tmp_path: Path) -> None:
    file = npz(tmp_path, x=np.full(shape, 0.5), y=Y[:6])
    for reader in (load, load_examples):
        with pytest.raises(UserError, match=r"channels may come first or last: store grey images as \(N, height, width\)"):
            reader(file)


@pytest.mark.parametrize("shape", [(6, 4, 5, 5), (6, 25), (6, 1, 5, 5, 5)])
def test_other_shapes_are_no_images_but_examples(shape: tuple[int, ...], tmp_path: Path) -> None:
    file = npz(tmp_path, x=np.full(shape, 0.5), y=Y[:6])
    with pytest.raises(UserError, match=r"inputs of the shape .* are no images: due is"):
        load(file)
    assert load_examples(file).x.shape == shape


def test_one_part_is_split_by_number(tmp_path: Path) -> None:
    data = load(npz(tmp_path, x=COLOUR, y=Y), reading=Reading(test_fraction=0.25))
    assert data.train_y.bincount().tolist() == [3, 3, 3]
    assert data.test_y.bincount().tolist() == [1, 1, 1]
    both = torch.cat([data.train_images, data.test_images]).flatten(1)
    assert len(both.unique(dim=0)) == 12
    assert "split by number: 9 images to train on, 3 (25%) to test on" in data.remarks


def test_floats_become_float32(tmp_path: Path) -> None:
    data = load(npz(tmp_path, x=GREY / 255, y=Y))
    assert data.train_images.dtype == torch.float32


def test_images_of_a_directory_are_the_same_stored_as_arrays(tmp_path: Path) -> None:
    data = load(str(folder(tmp_path / "images", {"train/cat": 5, "train/dog": 5, "test/cat": 2, "test/dog": 2})))
    parts = {"train_x": data.train_images, "train_y": data.train_y, "test_x": data.test_images, "test_y": data.test_y}
    again = load(npz(tmp_path, **{name: part.numpy() for name, part in parts.items()}, classes=np.array(data.classes)))
    assert again.classes == ("cat", "dog")
    assert digest(again.train_images, again.train_y) == digest(data.train_images, data.train_y)
    assert digest(again.test_images, again.test_y) == digest(data.test_images, data.test_y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y + 1, "labels count from 1 to 3, where classes count from 0: store y - 1"),
        (Y * 2, "no image to train on has the label 1, and labels go to 4: store numpy.unique"),
        (np.where(Y == 2, 10**9, Y), "no image to train on has the label 2, and labels go to 1000000000"),
        (Y * 0, "images of one class: there must be two or more"),
        (np.arange(12), "one image a class: none is left to test on"),
    ],
)
def test_labels_must_count_the_classes(y: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(npz(tmp_path, x=COLOUR, y=y))


def test_named_classes_may_have_no_images(tmp_path: Path) -> None:
    names = np.array(["<b>", "two\nlines", "c", "d", "e"])
    data = load(npz(tmp_path, x=COLOUR, y=Y * 2, classes=names))
    assert data.classes == tuple(names.tolist())
    assert "no image to train on of two\\nlines, d" in data.remarks
    with pytest.raises(UserError, match="a label is 4, and classes has 3 names"):
        load(npz(tmp_path, x=COLOUR, y=Y * 2, classes=names[:3]))


def test_a_class_to_test_on_alone_is_a_gap(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image to train on has the label 2"):
        load(npz(tmp_path, train_x=COLOUR, train_y=Y % 2, test_x=COLOUR, test_y=Y))


def test_images_to_test_on_alone(tmp_path: Path) -> None:
    file = npz(tmp_path, test_x=COLOUR, test_y=Y)
    with pytest.raises(UserError, match="the arrays train_x and train_y are missing"):
        load(file)
    assert load_examples(file).y.tolist() == Y.tolist()


def test_what_is_said_of_them(tmp_path: Path) -> None:
    data = load(npz(tmp_path, train_x=COLOUR, train_y=Y, test_x=COLOUR, test_y=np.sort(Y), extra=Y))
    assert "arrays not used: extra" in data.remarks
    assert "12 images to test on lie in the order of their classes: the first few are of one class" in data.remarks


@pytest.mark.parametrize("reading", [Reading(size=32), Reading(channels=1)])
def test_arrays_are_not_resized(reading: Reading, tmp_path: Path) -> None:
    for reader in (load, load_examples):
        with pytest.raises(UserError, match=r"has inputs of the shape \(3, 6, 8\): .* is of directories alone"):
            reader(npz(tmp_path, x=COLOUR, y=Y), reading=reading)
    load(npz(tmp_path, x=COLOUR, y=Y), reading=Reading(size=(6, 8), channels=3))


def test_examples_keep_their_precision_and_need_not_show_every_class(tmp_path: Path) -> None:
    examples = load_examples(npz(tmp_path, x=GREY / 255, y=Y + 900))
    assert examples.x.dtype == torch.float64
    assert examples.x.shape == (12, 1, 6, 8)
    assert examples.classes == ()
    assert examples.note == "float64, without channels, taken as grey"


def test_labels_beyond_the_classes_of_the_model_are_refused(tmp_path: Path) -> None:
    x, y, *_ = load_examples(npz(tmp_path, x=GREY, y=Y))
    with pytest.raises(UserError, match="the model has 2 classes, 0 to 1, but example 2 has the label 2"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), x, y, suite="quick")
