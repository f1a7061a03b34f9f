import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robust_lowrank import bounds
from robust_lowrank.data import load_examples
from robust_lowrank.data.arrays import read_arrays
from robust_lowrank.errors import UserError

X = np.linspace(0, 1, 3 * 16, dtype=np.float32).reshape(3, 1, 4, 4)
Y = np.array([0, 2, 1])


def npz(path: Path, **arrays) -> Path:
    np.savez(path / "some.npz", **arrays)
    return path / "some.npz"


def whole(path: Path):
    arrays = read_arrays(path)
    assert arrays.train is None
    assert arrays.test is None
    assert arrays.whole is not None
    return arrays.whole


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8"])
@pytest.mark.parametrize("label", ["<i8", ">i4", "u1", "u2", "u8"])
def test_floats_and_integers_of_every_width(dtype: str, label: str, tmp_path: Path) -> None:
    x, y, note = whole(npz(tmp_path, x=X.astype(dtype), y=Y.astype(label)))
    assert x.dtype == (torch.float64 if dtype == "<f8" else torch.float32)
    torch.testing.assert_close(x, torch.from_numpy(X.astype(dtype).astype(dtype[1:])).to(x.dtype))
    assert y.dtype == torch.int64
    assert y.tolist() == [0, 2, 1]
    assert note == f"float{8 * int(dtype[2])}"


def test_bytes_stay_bytes(tmp_path: Path) -> None:
    x, _, note = whole(npz(tmp_path, x=np.arange(48, dtype=np.uint8).reshape(3, 16), y=Y))
    assert x.dtype == torch.uint8
    assert x.flatten().tolist() == list(range(48))
    assert note == "uint8, divided by 255"


@pytest.mark.parametrize("order", "<>")
def test_sixteen_bits_are_divided_by_65535(order: str, tmp_path: Path) -> None:
    deep = np.array([[0, 65535], [1, 32768], [2, 3]], dtype=f"{order}u2")
    x, _, note = whole(npz(tmp_path, x=deep, y=Y))
    torch.testing.assert_close(x, torch.from_numpy((deep / 65535).astype(np.float32)))
    assert note == "uint16, divided by 65535"


def test_labels_may_be_a_column(tmp_path: Path) -> None:
    assert whole(npz(tmp_path, x=X, y=Y[:, None])).y.tolist() == [0, 2, 1]


def test_safetensors_hold_the_same(tmp_path: Path) -> None:
    save_file({"x": torch.from_numpy(X).bfloat16(), "y": torch.from_numpy(Y)}, path := tmp_path / "some.safetensors")
    x, y, note = whole(path)
    assert (x.dtype, y.tolist(), note) == (torch.float32, [0, 2, 1], "bfloat16")
    save_file({"images": torch.from_numpy(X)}, path)
    with pytest.raises(UserError, match="no array x and y, only images"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (("train_x", "train_y"), ("test_x", "test_y")),
        (("x_train", "y_train"), ("x_test", "y_test")),
        (("train_images", "train_labels"), ("test_images", "test_labels")),
        (("train_images", "train_labels"), ("val_images", "val_labels")),
        (("x_train", "y_train"), ("val_x", "val_y")),
    ],
)
def test_parts_by_their_names(train: tuple[str, str], test: tuple[str, str], tmp_path: Path) -> None:
    parts = {train[0]: X, train[1]: Y, test[0]: X[:2] / 2, test[1]: Y[:2]}
    arrays = read_arrays(npz(tmp_path, **parts, other=Y, classes=np.array(["a", "b", "c"])))
    assert arrays.train is not None
    assert arrays.test is not None
    assert torch.equal(arrays.train.x, torch.from_numpy(X))
    assert torch.equal(arrays.test.x, torch.from_numpy(X[:2] / 2))
    assert (arrays.whole, arrays.unused, arrays.classes) == (None, ["other"], ("a", "b", "c"))


def test_test_comes_before_val(tmp_path: Path) -> None:
    file = npz(tmp_path, train_images=X, train_labels=Y, val_images=X, val_labels=Y, test_images=X / 2, test_labels=Y)
    arrays = read_arrays(file)
    assert arrays.test is not None
    assert float(arrays.test.x.max()) == 0.5
    assert arrays.unused == ["val_images", "val_labels"]


def test_one_part_alone(tmp_path: Path) -> None:
    assert whole(npz(tmp_path, train_x=X, train_y=Y)).y.tolist() == [0, 2, 1]
    arrays = read_arrays(npz(tmp_path, x_test=X, y_test=Y))
    assert (arrays.train, arrays.whole) == (None, None)
    assert arrays.test is not None


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, Y.astype(np.float32), r"y is of type float32, where labels are integers.*y\.astype\(int\)"),
        (X, Y == 1, "y is of type bool"),
        (X, np.eye(3, dtype=int), r"y has the shape \(3, 3\).*one-hot, store y\.argmax\(axis=1\)"),
        (X, Y[:2], "x has 3 examples and y has 2"),
        (X, -Y, "label -2 of example 1 is negative"),
        (X, np.array(["cat", "dog", "cat"]), r"y is of type <U3: labels are integers.*classes, y = numpy\.unique\(y"),
        (X[:0], Y[:0], r"x has the shape \(0, 1, 4, 4\)"),
        (Y, Y, r"x has the shape \(3,\)"),
        (np.zeros((3, 4), dtype=int), Y, r"x is of type int64, .*or uint8.*store x\.astype\('uint8'\)"),
        (np.full((3, 4), 256), Y, "x is of type int64, .*255$"),
        (np.full((3, 4), 255, dtype=np.uint16), Y, "uint16 with no value above 255"),
        (np.eye(3, dtype=np.uint8), Y, "bytes 0 and 1 alone"),
        (X > 0.5, Y, "x is of type bool"),
        (X * 255, Y, r"3 of 3 examples.*values from 0 to 255\): divide by 255"),
        ((X - 0.5) / 0.2, Y, r"they look normalised; store them raw, x \* std \+ mean"),
        (np.where(X == 1, np.nan, X), Y, r"1 of 3 examples.*first is number 2.*not finite"),
        (X * 1.5, Y, "scale them"),
        (X * 1j, Y, "x is of type complex64"),
    ],
)
def test_arrays_of_another_kind_are_refused(x: np.ndarray, y: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_arrays(npz(tmp_path, x=x, y=y))
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "classes", [np.array([1, 2, 3]), np.array([["a", "b", "c"]]), np.array("abc"), np.array([b"a", b"b", b"c"])]
)
def test_classes_are_a_list_of_texts(classes: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="classes must be a list of the classes' names"):
        read_arrays(npz(tmp_path, x=X, y=Y, classes=classes))


def test_two_classes_do_not_share_a_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the class a stands in classes more than once"):
        read_arrays(npz(tmp_path, x=X, y=Y, classes=np.array(["a", "b", "a"])))


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    for arrays in ({"x": np.array([{}], dtype=object), "y": Y}, {"x": X, "y": Y, "classes": np.array(["a", None], dtype=object)}):
        with pytest.raises(UserError, match="holds pickled objects, and nothing is unpickled"):
            read_arrays(npz(tmp_path, **arrays))
    with pytest.raises(UserError, match="no array y, only x"):
        read_arrays(npz(tmp_path, x=X))
    with pytest.raises(UserError, match="no array train_labels, only train_images"):
        read_arrays(npz(tmp_path, train_images=X))
    for name in ("noise.npz", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"noise")
        with pytest.raises(UserError, match="damaged"):
            read_arrays(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_arrays(tmp_path / "nothing.npz")


def test_a_single_array_is_not_a_file_of_arrays(tmp_path: Path) -> None:
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(UserError, match=r"is no \.npz file"):
        read_arrays(tmp_path / "single.npz")


def test_what_would_not_fit_into_memory_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((3, 1000, 1000)), y=Y)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr("os.sysconf", lambda name: 2000)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"would take 0\.0 GiB, and 0\.0 GiB of memory are free here"):
        read_arrays(path)


def test_a_head_that_lies_about_its_size_is_damage(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (2**60, 4)})
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as file:
        file.writestr("x.npy", head.getvalue() + struct.pack("8x"))
        file.writestr("y.npy", b"")
    with pytest.raises(UserError, match="damaged"):
        read_arrays(tmp_path / "liar.npz")


@pytest.mark.parametrize(("dtype", "excess"), [("f4", 1e-6), ("f8", 1e-6), ("f2", 2**-10)])
def test_what_rounding_brought_beyond_the_ends_is_brought_back_and_said(dtype: str, excess: float, tmp_path: Path) -> None:
    x = X.astype(dtype)
    x[0, 0, 0, 0], x[-1, -1, -1, -1] = -excess / 2, 1 + excess
    part = whole(npz(tmp_path, x=x, y=Y))
    assert (float(part.x.min()), float(part.x.max())) == (0, 1)
    assert "2 values beyond [0, 1] by at most " in part.note
    x[0, 0, 0, 0] = -3 * excess
    with pytest.raises(UserError, match=r"1 of 3 examples are not in \[0, 1\]|2 of 3"):
        read_arrays(npz(tmp_path, x=x, y=Y))


@pytest.mark.parametrize("suffix", [".NPZ", ".Npz", ".SAFETENSORS"])
def test_suffixes_may_be_in_capitals(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"some{suffix}"
    if suffix == ".SAFETENSORS":
        save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}, path)
    else:
        npz(tmp_path, x=X, y=Y).rename(path)
    assert load_examples(str(path)).y.tolist() == [0, 2, 1]


def test_an_archive_expands_in_a_proportion_to_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "FREE", 2**16)
    np.savez_compressed(path := tmp_path / "bomb.npz", x=np.zeros((3, 1000, 100)), y=Y)
    with pytest.raises(UserError, match=r"would take 2 MiB of memory, .* as a decompression bomb does: write it unpacked"):
        read_arrays(path)
    np.savez(path, x=np.zeros((3, 1000, 100)), y=Y)
    assert len(whole(path).x) == 3
    np.savez(path, x=np.zeros((1000, 1), dtype=np.uint8), y=np.zeros(1000, dtype=np.int8))
    with pytest.raises(UserError, match=r"the 1,000 examples of .* would take 0 MiB"):
        read_arrays(path)
