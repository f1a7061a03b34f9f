from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robust_lowrank.data import load, load_arrays, load_examples
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import evaluate

X = np.linspace(0, 1, 3 * 16, dtype=np.float32).reshape(3, 1, 4, 4)
Y = np.array([0, 2, 1])


def npz(path: Path, **arrays) -> Path:
    np.savez(path / "some.npz", **arrays)
    return path / "some.npz"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
@pytest.mark.parametrize("label", ["<i8", ">i4", "u1"])
def test_floats_and_integers_of_every_width(dtype: str, label: str, tmp_path: Path) -> None:
    x, y, note = load_arrays(npz(tmp_path, x=X.astype(dtype), y=Y.astype(label)))
    assert x.dtype == (torch.float64 if dtype == "<f8" else torch.float32)
    torch.testing.assert_close(x, torch.from_numpy(X.astype(dtype).astype(dtype[1:])).to(x.dtype))
    assert y.dtype == torch.int64
    assert y.tolist() == [0, 2, 1]
    assert note == f"float{8 * int(dtype[2])}"


def test_bytes_are_divided_by_255_and_it_is_said(tmp_path: Path) -> None:
    x, _, note = load_arrays(npz(tmp_path, x=np.arange(48, dtype=np.uint8).reshape(3, 16), y=Y))
    assert torch.equal(x.flatten(), torch.arange(48) / 255)
    assert note == "uint8, divided by 255"


def test_safetensors_hold_the_same(tmp_path: Path) -> None:
    save_file({"x": torch.from_numpy(X).bfloat16(), "y": torch.from_numpy(Y)}, path := tmp_path / "some.safetensors")
    x, y, note = load_arrays(path)
    assert (x.dtype, y.tolist(), note) == (torch.float32, [0, 2, 1], "bfloat16")
    save_file({"images": torch.from_numpy(X)}, path)
    with pytest.raises(UserError, match="no array x and y, only images"):
        load_arrays(path)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y.astype(np.float32), "y is of type float32, where labels are integers"),
        (X, Y == 1, "y is of type bool"),
        (X, np.eye(3, dtype=int), r"y has the shape \(3, 3\).*argmax"),
        (X, Y[:, None], r"y has the shape \(3, 1\).*flatten"),
        (X, Y[:2], "x has 3 examples and y has 2"),
        (X, -Y, "label -2 of example 1 is negative"),
        (X, np.array(["cat", "dog", "cat"]), "y is of type <U3"),
        (X[:0], Y[:0], r"x has the shape \(0, 1, 4, 4\)"),
        (Y, Y, r"x has the shape \(3,\)"),
        (np.zeros((3, 4), dtype=int), Y, "x is of type int64, .*or uint8"),
        (X * 255, Y, r"3 of 3 examples.*values from 0 to 255\): divide by 255"),
        ((X - 0.5) / 0.2, Y, "they look normalised; give them raw, and --mean and --std"),
        (np.where(X == 1, np.nan, X), Y, r"1 of 3 examples.*first is number 2.*not finite"),
        (X * 1.5, Y, "scale them"),
        (X * 1j, Y, "x is of type complex64"),
    ],
)
def test_arrays_of_another_kind_are_refused(x: np.ndarray, y: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_arrays(npz(tmp_path, x=x, y=y))
    assert str(tmp_path) in str(caught.value)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Pickled objects are not read"):
        load_arrays(npz(tmp_path, x=np.array([{}], dtype=object), y=Y))
    with pytest.raises(UserError, match="no array y, only x"):
        load_arrays(npz(tmp_path, x=X))
    for name in ("noise.npz", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"noise")
        with pytest.raises(UserError, match="damaged"):
            load_arrays(tmp_path / name)
    with pytest.raises(UserError, match=r"must be a \.npz or \.safetensors"):
        load_arrays(Path(__file__))
    with pytest.raises(UserError, match="does not exist"):
        load_arrays(tmp_path / "nothing.npz")


def test_a_single_array_is_not_a_file_of_arrays(tmp_path: Path) -> None:
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(UserError, match="holds no plain arrays"):
        load_arrays(tmp_path / "single.npz")


def test_examples_by_name_or_file(tmp_path: Path) -> None:
    digits = load_examples("digits")
    assert torch.equal(digits.x, load("digits").test_x)
    assert digits.note == "test part of digits"
    assert load_examples(str(npz(tmp_path, x=X, y=Y))).y.tolist() == [0, 2, 1]
    with pytest.raises(UserError, match="unknown data set 'digit': did you mean 'digits'"):
        load_examples("digit")


def test_labels_beyond_the_classes_of_the_model_are_refused(tmp_path: Path) -> None:
    x, y, _ = load_arrays(npz(tmp_path, x=X, y=Y))
    with pytest.raises(UserError, match="the model has 2 classes, 0 to 1, but example 1 has the label 2"):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), x, y, suite="quick")
