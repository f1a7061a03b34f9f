import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from robust_lowrank.errors import UserError
from robust_lowrank.records import ResultFiles
from robust_lowrank.reporting import comparison_report
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.formats.pictures import draw_picture, read_images
from robust_lowrank.reporting.sections.gallery import LIMIT, Gallery

RIGHT = np.ones(20, dtype=bool)
LOST = {"A": [3, 4, 5], "B": [3, 4], "C": [4]}
RNG = np.random.default_rng(0)


def images(count: int, shape=(1, 8, 8)) -> np.ndarray:
    return RNG.random((count, *shape)).astype(np.float32) * 0.8 + 0.1


@pytest.fixture
def make_runs(make_run, make_result, tmp_path):
    def make(lost=LOST, shape=(1, 8, 8), clean=True, **changes):
        x = images(20, shape)
        runs = []
        for name, broken in lost.items():
            held = RIGHT.copy()
            held[broken] = False
            path = tmp_path / name / "results" / "quick"
            path.mkdir(parents=True)
            if clean:
                save_file({"inputs": x, "examples": np.arange(20)}, ResultFiles(path).clean)
            moved = x[broken] + np.float32(0.1) * np.sign(RNG.random(x[broken].shape) - 0.5).astype(np.float32)
            save_file({"fgsm/0.1/inputs": moved, "fgsm/0.1/examples": np.array(broken)}, ResultFiles(path).adversarial)
            result = replace(make_result(RIGHT, {("fgsm", 0.1): held}), path=path)
            runs.append(make_run(name, results=[result], path=str(tmp_path / name), **changes))
        return runs

    return make


@pytest.fixture
def make_gallery(make_runs):
    return lambda *args, **changes: Gallery.from_evaluation(find_evaluations(arrange(make_runs(*args, **changes)))[0])


def test_what_most_lost_and_what_only_some_lost_is_shown(make_gallery):
    gallery = make_gallery(classes=["nought", "one"])
    assert [card.title for card in gallery.cards] == ["Example 4: one", "Example 3: one", "Example 5: one"]
    assert gallery.cards[0].remark == "Lost by 3 of 3 networks."
    assert gallery.cards[1].remark == "Lost by 2 of 3 networks; held by C."
    assert gallery.cards[2].remark == "Lost by 1 of 3 networks: A."
    assert [shot.series for shot in gallery.cards[0].shots] == ["A", "B"]
    assert gallery.cards[2].shots[0].taken_for == "nought"
    assert gallery.cards[0].shots[0].distance == "L∞ 0.1"
    assert "5 times as strong" in gallery.statement or "4 times as strong" in gallery.statement
    assert all(picture.alt for picture in gallery.pictures)
    assert len(gallery.pictures) == 3 + 2 * 5


def test_pictures_are_the_inputs_pixel_by_pixel():
    pixels = images(1)[0].astype(np.float64)
    picture = draw_picture(pixels, "name", "alt")
    image = np.asarray(Image.open(io.BytesIO(picture.png)))
    assert image.shape == (96, 96) == (picture.height, picture.width)
    assert (image == np.kron(np.rint(255 * pixels[0]), np.ones((12, 12)))).all()
    colour = np.asarray(Image.open(io.BytesIO(draw_picture(images(1, (3, 32, 32))[0], "name", "alt").png)))
    assert colour.shape == (96, 96, 3)
    assert max(Image.open(io.BytesIO(draw_picture(images(1, (3, 300, 200))[0], "n", "a").png)).size) == 96


def test_a_gallery_has_a_limited_size(make_runs):
    evaluation = find_evaluations(arrange(make_runs()))[0]
    size = sum(len(picture.png) for picture in Gallery.from_evaluation(evaluation).pictures)
    assert 0 < size < LIMIT
    smaller = Gallery.from_evaluation(evaluation, limit=size // 2)
    assert [card.title for card in smaller.cards] == ["Example 4: 1"]


def test_without_stored_inputs_there_is_no_gallery(make_runs, make_gallery, make_run, make_result):
    assert make_gallery(clean=False) is None
    evaluation = find_evaluations(arrange([make_run("D", results=[make_result(RIGHT, {("fgsm", 0.1): ~RIGHT})])]))[0]
    assert Gallery.from_evaluation(evaluation) is None


def test_the_report_shows_the_gallery_and_writes_its_pictures(make_runs, tmp_path):
    out = tmp_path / "report"
    page = comparison_report(make_runs(classes=["<b>", "<script>x"]), out, title="t", command="x").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 13
    assert "Lost by 2 of 3 networks; held by C." in page
    assert "Example 4: &lt;script&gt;x" in page and "<b>" not in page
    pictures = sorted((out / "figures").glob("gallery-*.png"))
    assert len(pictures) == 13
    text = (out / "report.md").read_text(encoding="utf-8")
    assert all(f"](figures/{picture.name})" in text for picture in pictures)
    assert "### Example 4: &lt;script&gt;x" in text


def test_only_the_images_that_are_wanted_are_read(tmp_path):
    x = images(4)
    save_file({"inputs": x, "examples": np.array([7, 5, 9, 2])}, tmp_path / "a.safetensors")
    found = read_images(tmp_path / "a.safetensors", "", [5, 2, 1])
    assert sorted(found) == [2, 5]
    assert (found[5] == x[1].astype(np.float64)).all()
    assert read_images(tmp_path / "a.safetensors", "fgsm/0.1", [5]) == {}
    assert read_images(tmp_path / "none.safetensors", "", [5]) == {}


@pytest.mark.parametrize(
    ("inputs", "examples"),
    [
        (np.zeros((2, 5), np.float32), np.arange(2)),
        (np.zeros((2, 4, 8, 8), np.float32), np.arange(2)),
        (np.zeros((2, 1, 8, 2000), np.float32), np.arange(2)),
        (np.zeros((2, 1, 8, 8), np.int32), np.arange(2)),
        (np.zeros((2, 1, 8, 8), np.float32), np.arange(3)),
        (np.full((2, 1, 8, 8), np.nan, np.float32), np.arange(2)),
    ],
    ids=["no image", "four channels", "too large", "whole numbers", "other count", "not a number"],
)
def test_what_is_no_image_is_left_out(tmp_path, inputs, examples):
    save_file({"inputs": inputs, "examples": examples}, tmp_path / "a.safetensors")
    assert read_images(tmp_path / "a.safetensors", "", [0, 1]) == {}


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nonsense" * 4)
    with pytest.raises(UserError, match=r"a\.safetensors cannot be read"):
        read_images(tmp_path / "a.safetensors", "", [0])
