import os
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from robust_lowrank.data.layout import read_layout
from robust_lowrank.errors import UserError

ODD = ("10", "9", "-dash", "schräg & co", "two\nlines", "<script>", "UPPER", "a.b", "漢字")


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def test_classes_and_images_are_those_of_torchvision(tmp_path: Path) -> None:
    files(tmp_path, *(f"{name}/{number}.{suffix}" for name in ODD for number, suffix in enumerate(("png", "JPG", "webp"))))
    layout, reference = read_layout(tmp_path), ImageFolder(tmp_path)
    assert list(layout.classes) == reference.classes
    assert [(str(picture.path), picture.label) for picture in layout.whole] == reference.samples
    assert not layout.train
    assert not layout.test
    assert not layout.remarks


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "testing", "Test"])
def test_a_folder_of_these_names_is_tested_on(test: str, tmp_path: Path) -> None:
    layout = read_layout(files(tmp_path, "train/a/1.png", "train/b/2.png", f"{test}/a/3.png", f"{test}/b/4.png"))
    assert layout.classes == ("a", "b")
    assert [picture.name for picture in layout.train] == ["a/1.png", "b/2.png"]
    assert [(picture.name, picture.label) for picture in layout.test] == [("a/3.png", 0), ("b/4.png", 1)]
    assert layout.remarks == (f"the images in {test} are those to test on",)


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    files(tmp_path, *(f"{part}/{name}/1.png" for part in ("train", "test", "val") for name in "ab"), "loose.png", "labels.csv")
    remarks = read_layout(tmp_path).remarks
    assert "not used, beside train: val, loose.png" in remarks
    assert "1 file that is no image ignored" in remarks


def test_litter_is_passed_by_and_counted(tmp_path: Path) -> None:
    files(tmp_path, "a/1.png", "b/2.png", "a/.3.png", ".git/4.png", "a/Thumbs.db", "__MACOSX/a/5.png", "b/notes.txt", "b/README")
    layout = read_layout(tmp_path)
    assert [picture.name for picture in layout.whole] == ["a/1.png", "b/2.png"]
    assert set(layout.remarks) == {"4 hidden files and folders ignored", "2 files that are no images ignored"}


def test_folders_within_a_class_belong_to_it(tmp_path: Path) -> None:
    layout = read_layout(files(tmp_path, "a/x/1.png", "a/x/y/2.png", "a/3.png", "b/4.png"))
    assert sorted(picture.name for picture in layout.whole if picture.label == 0) == ["a/3.png", "a/x/1.png", "a/x/y/2.png"]
    assert layout.remarks == ("2 images in folders within a class's folder, counted as of that class",)


def test_train_can_be_a_class(tmp_path: Path) -> None:
    assert read_layout(files(tmp_path, "train/1.png", "bus/2.png", "car/3.png")).classes == ("bus", "car", "train")


def test_one_part_alone(tmp_path: Path) -> None:
    layout = read_layout(files(tmp_path / "1", "train/a/1.png", "train/b/2.png"))
    assert [picture.name for picture in layout.whole] == ["a/1.png", "b/2.png"]
    layout = read_layout(files(tmp_path / "2", "val/a/1.png", "val/b/2.png"))
    assert [picture.name for picture in layout.test] == ["a/1.png", "b/2.png"]
    assert not layout.train


def test_a_class_may_be_missing_from_the_test_part(tmp_path: Path) -> None:
    layout = read_layout(files(tmp_path, "train/a/1.png", "train/b/2.png", "test/b/4.png"))
    assert layout.test[0].label == 1
    assert "no images to test on of a" in layout.remarks


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no folders of classes"),
        (("1.png", "2.png"), "2 images in .* itself, such as 1.png, have no class: due is DIR/train/CLASS"),
        (("a/1.png", "b/2.png", "3.png"), "1 image in .* itself"),
        (("a/1.png",), "only the class a"),
        (("a/1.png", "b/readme.txt"), r"no images in .*/b: a class needs some \(.*\.png"),
        (("train/1.png", "test/2.png"), "train has no folders of classes"),
        (("train/a/1.png", "train/b/2.png", "test/c/3.png"), "test has classes that .*train lacks: c"),
        (("train/a/1.png", "train/b/", "test/a/3.png"), "train/b"),
    ],
)
def test_other_layouts_are_refused(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            files(tmp_path, name)
    with pytest.raises(UserError, match=message) as caught:
        read_layout(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside.png", "../outside"])
def test_links_out_of_the_directory_are_refused(target: str, tmp_path: Path) -> None:
    files(tmp_path, "outside.png", "outside/1.png", "data/a/1.png", "data/b/2.png")
    (tmp_path / "data/a/link.png").symlink_to(f"../{target}" if target[0] == "." else target)
    with pytest.raises(UserError, match=r"link\.png is a link out of"):
        read_layout(tmp_path / "data")


def test_links_within_the_directory(tmp_path: Path) -> None:
    files(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a/same.png").symlink_to("../b/2.png")
    (tmp_path / "a/broken.png").symlink_to("nowhere.png")
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    (tmp_path / "b/circle").symlink_to("..")
    os.mkfifo(tmp_path / "b/pipe.png")
    layout = read_layout(tmp_path)
    names = [picture.name for picture in layout.whole]
    assert names == ["a/1.png", "a/broken.png", "a/loop.png", "a/same.png", "b/2.png"]
    assert set(layout.remarks) == {"1 link to a folder ignored", "1 file that is no image ignored"}


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    files(tmp_path / "real", "a/1.png", "b/2.png")
    (tmp_path / "link").symlink_to("real")
    assert len(read_layout(tmp_path / "link").whole) == 2


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    layout = read_layout(files(tmp_path, "a\udcff/1.png", "b/2.png"))
    assert layout.classes == ("a\\udcff", "b")
