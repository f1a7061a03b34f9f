"""Data of one's own through all commands, and ways in which they are wrong."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import Result

import robust_lowrank as rlr
from robust_lowrank import data, records
from robust_lowrank.errors import shown
from tests.data.pictures import drawn, folder

Command = Callable[..., Result]
NAMES = ("<script>alert(1)", "two\nlines", "\x1b[31mred", "a|b`{x}^~\\y $z$", "-dash & 10 %_#", "😀\u202e")
TRAIN = ("--model", "mlp", "--epochs", 1, "--seed", 0)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits of 8 x 12 pixels in classes of odd names, in one part, with litter."""
    root = tmp_path_factory.mktemp("own") / "odd"
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:400], digits.target[:400], strict=True)):
        if label < len(NAMES):
            (root / NAMES[label]).mkdir(parents=True, exist_ok=True)
            pixels = np.pad((image * 255 / 16).astype(np.uint8), ((0, 0), (2, 2)))
            Image.fromarray(pixels).save(root / NAMES[label] / f"{number}.PNG")
    (root / ".hidden").mkdir()
    (root / NAMES[0] / "Thumbs.db").touch()
    return root


@pytest.fixture
def place(here: Path, odd: Path) -> Path:
    shutil.copytree(odd, here / "odd")
    return here / "odd"


@pytest.mark.slow
def test_every_command_takes_a_run_on_them(rlr_eval: Command, place: Path) -> None:
    result = rlr_eval("train", "--data", "odd", *TRAIN, "--method", "condlr", "--rank", 0.5, "--out", "RUN")
    assert result.exit_code == 0, result.stderr
    record = records.read_run(Path("RUN")).record
    assert record.classes == [shown(name) for name in sorted(NAMES)]
    assert record.input_shape == (1, 8, 12)
    assert record.data == "odd"
    assert {"2 hidden files and folders ignored", "one channel, grey"} < set(record.remarks)
    assert all(f"RUN: {remark}" in result.stderr for remark in record.remarks)
    for command in (
        ("attack", "RUN", "--suite", "quick", "--n", 40, "--workers", 1),
        ("certify", "RUN", "--n", 4),
        ("verify", "RUN"),
        ("forecast", "RUN", "--suite", "quick", "--n", 4),
        ("condition", "RUN", "--out", "C"),
        ("report", "RUN", "--out", "R"),
    ):
        result = rlr_eval(*command)
        assert result.exit_code == 0, f"{command}: {result.stderr}"
    page = Path("R/report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
    latex, markdown = (Path(f"R/report.{suffix}").read_text(encoding="utf-8") for suffix in ("tex", "md"))
    assert r"a\textbar{}b" in latex or "a|b" in latex
    assert r"\textless{}script\textgreater{}" in latex
    assert r"a\|b" in markdown
    for text in (page, latex, markdown):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "two\\nlines" in text or r"two\textbackslash{}nlines" in text or r"two\\nlines" in text


def test_data_may_move_but_not_change(rlr_eval: Command, place: Path) -> None:
    assert rlr_eval("train", "--data", "odd", *TRAIN, "--out", "RUN").exit_code == 0
    place.rename(place.with_name("moved"))
    commands = [("attack", "RUN", "--suite", "quick", "--n", 4, "--workers", 1), ("certify", "RUN", "--n", 2), ("verify", "RUN")]
    for command in commands:
        lost = rlr_eval(*command)
        assert lost.exit_code == 2
        assert f"nor is there anything at {place}: name the place of data of your own" in lost.stderr
        found = rlr_eval(*command, "--data", "moved")
        assert found.exit_code == 0, found.stderr
    written = Path("RUN/run.json").read_bytes()
    again = rlr_eval("train", "--data", "moved", *TRAIN, "--out", "RUN")
    assert again.exit_code == 0, again.stderr
    assert Path("RUN/run.json").read_bytes() == written
    other = rlr_eval("attack", "RUN", "--suite", "quick", "--data", folder(place.with_name("other"), {"a": 3, "b": 3}))
    assert other.exit_code == 2
    assert f"the test images of {place.with_name('other')} here are not those of RUN: point --data at" in other.stderr


def test_arrays_with_the_same_images_are_the_same_data(rlr_eval: Command, place: Path) -> None:
    assert rlr_eval("train", "--data", "odd", *TRAIN, "--out", "RUN").exit_code == 0
    images = data.load("odd")
    parts = {"train_x": images.train_images, "train_y": images.train_y, "test_x": images.test_images, "test_y": images.test_y}
    np.savez("odd.npz", **{name: part.numpy() for name, part in parts.items()}, classes=np.array(images.classes))
    result = rlr_eval("attack", "RUN", "--suite", "quick", "--n", 4, "--data", "odd.npz", "--workers", 1)
    assert result.exit_code == 0, result.stderr


@pytest.mark.slow
def test_plan_and_bench_take_them(rlr_eval: Command, place: Path) -> None:
    plan = rlr_eval("plan", "--data", "odd", "--image-size", "4x6", "--model", "mlp", "--method", "condlr", "--json")
    assert plan.exit_code == 0, plan.stderr
    assert json.loads(plan.stdout)[0]["columns"] == 24
    Path("mine.toml").write_text(
        'name = "mine"\n[data]\nname = "odd"\nsize = [4, 6]\ntest_fraction = 0.3\n[model]\nname = "mlp"\n'
        '[training]\nepochs = 1\n[[methods]]\nname = "dense"\n[[attacks]]\nsuite = "quick"\nexamples = 4\n',
        encoding="utf-8",
    )
    bench = rlr_eval("bench", "mine.toml", "--workers", 1)
    assert bench.exit_code == 0, bench.stderr
    record = records.read_run(Path("reports/mine/runs/dense-seed0")).record
    assert record.input_shape == (1, 4, 6)
    assert record.config["data"]["size"] == [4, 6]
    assert bench.stderr.count("resized to 4 x 6") == 1
    assert rlr.training.load_network("reports/mine/runs/dense-seed0")


def test_a_network_from_elsewhere_takes_them(rlr_eval: Command, here: Path) -> None:
    folder(here / "mixed", {"a": 3, "b": 3})
    Image.fromarray(drawn(9, height=9)).save(here / "mixed/a/9.png")
    (here / "mixed/b/broken.png").touch()
    (here / "own_networks.py").write_text(
        "import torch\ndef own(input_shape, num_classes):\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(24, num_classes))\n",
        encoding="utf-8",
    )
    options = ("--model", "own_networks:own", "--data", "mixed")
    for lacking, message in (((), "of different sizes"), (("--image-size", 4), "1 of 8 images in")):
        refused = rlr_eval("attack", *options, *lacking, "--suite", "quick", "--out", "OUT")
        assert refused.exit_code == 2
        assert message in refused.stderr
    options = (*options, "--skip-broken", "--image-size", "4x6", "--channels", 1)
    result = rlr_eval("attack", *options, "--suite", "quick", "--out", "OUT", "--workers", 1)
    assert result.exit_code == 0, result.stderr
    assert "OUT: 1 broken image left out: b/broken.png" in result.stderr
    record = records.read_run(Path("OUT")).record
    assert record.classes == ["a", "b"]
    assert "1 broken image left out: b/broken.png" in record.remarks
    assert rlr_eval("verify", "OUT", *options).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("train", "--data", "./nowhere"), "there is nothing at {here}/nowhere: name the place of the data"),
        (("train", "--data", "nowhere"), "nor is there anything at {here}/nowhere"),
        (("train", "--data", "notes.txt"), "neither a directory of images nor a file of arrays"),
        (("train", "--data", "pair", "--image-size", "8by8"), "--image-size '8by8' is no size"),
        (("train", "--data", "pair", "--image-size", "0"), "size = 0 must lie between 1 and 8,192"),
        (("train", "--data", "pair", "--channels", "2"), "channels = 2 must be 1 (grey) or 3 (RGB)"),
        (("train", "--data", "pair", "--data-dir", "."), "{here}/pair holds the data itself: leave --data-dir (data_dir) out"),
        (("train", "--data", "digits", "--image-size", "16"), "digits comes as it is: size belongs to data of your own"),
        (("train", "--data", "pair", "--model", "lenet5"), "lenet5 needs images of 28 x 28, not 6 x 8"),
        (("plan", "--data", "pair", "--model", "vit", "--method", "condlr"), "6 x 8 is no multiple"),
        (("train", "--data", "single"), "{here}/single has only the class a"),
        (("train", "--data", "pair/a"), "images in {here}/pair/a itself"),
        (("attack", "LOW", "--suite", "quick", "--image-size", "8"), "a run's images are read as in its training"),
    ],
)
def test_wrong_ways_end_with_what_to_do(rlr_eval: Command, here: Path, options: tuple[str, ...], message: str) -> None:
    folder(here, {"pair/a": 2, "pair/b": 2, "single/a": 2})
    (here / "notes.txt").touch()
    result = rlr_eval(*options)
    assert result.exit_code == 2
    assert message.format(here=here) in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 3 + 2  # remarks come before
    assert "Traceback" not in result.stderr
    assert not (here / "runs").exists()


def test_the_page_shows_what_runs(here: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    load, store, convert = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {"rlr": rlr}
    for code in (store, convert, load):
        exec(code, names)
    photos, stored = names["photos"], data.load("mine.npz")
    assert isinstance(photos, data.Dataset)
    assert photos.input_shape == (1, 64, 64)
    assert photos.classes == stored.classes == ("cat", "dog")
    again = data.load("photos.npz")
    assert data.digest(again.test_images, again.test_y) == data.digest(data.load("photos").test_images, data.load("photos").test_y)
    (table,) = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    config = rlr.training.parse_config(tomllib.loads(table), source="page")
    assert config.data.size == (48, 64)
    assert config.data.skip_broken
