import hashlib
import os
from pathlib import Path

import pytest
import torch

from robust_lowrank.data import DATASETS, Reading, default_data_dir, load, load_examples
from robust_lowrank.errors import UserError

DIGITS_TEST_SHA256 = "ac01c7fbb93434d19f491d787b99aaf4abf1ba9ac9027c18e16e14f539c74992"  # over pixels (float32) and labels (int64)


def test_digits_keep_their_split() -> None:
    data = load("digits")
    assert (len(data.train_y), len(data.test_y)) == (1297, 500)
    assert data.train_x.dtype == torch.float32
    assert float(data.train_x.max()) == 1.0
    content = data.test_images.numpy().tobytes() + data.test_y.numpy().tobytes()
    assert hashlib.sha256(content).hexdigest() == DIGITS_TEST_SHA256


def test_digits_are_stratified() -> None:
    data = load("digits")
    parts = [torch.bincount(labels, minlength=10) / len(labels) for labels in (data.train_y, data.test_y)]
    assert float((parts[0] - parts[1]).abs().max()) < 2e-3


def test_digits_do_not_leak_between_parts() -> None:
    data = load("digits")
    both = torch.cat([data.train_x, data.test_x]).flatten(1)
    assert len(both.unique(dim=0)) == len(both)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'mnst': did you mean 'mnist'\?"):
        load("mnst")


def test_the_catalogue_describes_what_it_loads() -> None:
    assert load("digits").description == DATASETS["digits"].description


def test_examples_are_the_test_part() -> None:
    examples, data = load_examples("digits"), load("digits")
    assert torch.equal(examples.x, data.test_x)
    assert examples.note == "test part of digits"
    assert examples.classes == data.classes


@pytest.mark.parametrize("reader", [load, load_examples])
def test_what_is_no_data_says_where_it_was_looked_for(reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.zip").touch()
    for name, message in {
        "digit": f"unknown data set 'digit': did you mean 'digits'.*\nnor is there anything at {tmp_path}/digit",
        "./digits": f"there is nothing at {tmp_path}/digits: name the place of the data",
        "my.npz": f"there is nothing at {tmp_path}/my.npz",
        "images.zip": f"{tmp_path}/images.zip is neither a directory of images nor a file of arrays",
        "a\udcff": r"a\\udcff is not valid UTF-8",
    }.items():
        with pytest.raises(UserError, match=message):
            reader(name)


def test_options_that_belong_to_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="digits comes as it is: size belongs to data of your own"):
        load("digits", reading=Reading(size=8))
    with pytest.raises(UserError, match=r"holds the data itself: leave --data-dir \(data_dir\) out"):
        load(str(tmp_path), data_dir=tmp_path)
    with pytest.raises(UserError, match=r"holds the data itself: leave --download \(download\) out"):
        load(str(tmp_path), download=True)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "size = 0"),
        ({"size": (3, -1)}, "size"),
        ({"channels": 2}, "1 .grey. or 3"),
        ({"test_fraction": 1.0}, "between 0 and 1"),
    ],
)
def test_a_reading_is_within_its_bounds(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reading(**values)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_directory_without_files_names_them_and_the_way_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(name, data_dir=tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "--download" in message
    assert ("train-images-idx3-ubyte.gz" if "mnist" in name else "cifar-10-python.tar.gz") in message
    assert len(message.splitlines()) <= 3


def test_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load("mnist", data_dir=tmp_path / "nowhere")


def test_default_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLR_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("RLR_DATA_DIR")
    assert default_data_dir() == Path.home() / ".cache" / "robust-lowrank"


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_real_files_have_the_announced_form(name: str) -> None:
    variable = f"RLR_TEST_{name.upper().replace('-', '_')}"
    directory = os.environ.get(variable)
    if directory is None:
        pytest.skip(f"needs the files of {name}: set {variable} to the directory that holds them")
    data, entry = load(name, data_dir=directory), DATASETS[name]
    assert data.input_shape == entry.input_shape
    assert data.classes == entry.classes
    assert sorted(data.test_y.unique().tolist()) == list(range(data.num_classes))
