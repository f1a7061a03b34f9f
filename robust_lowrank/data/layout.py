"""The images of a directory are found, with their classes and the parts they belong to; no image is opened."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from robust_lowrank.data.reading import counted, listed
from robust_lowrank.errors import UserError, shown

SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there is tested on
DEPTH = 32  # of folders within a class's folder
LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini")  # that systems leave behind, beside what is hidden by a leading dot
TREE = "DIR/train/CLASS/* and DIR/test/CLASS/*, or DIR/CLASS/*"


class Picture(NamedTuple):
    """An image file, its name from its class on, and the number of that."""

    path: Path
    name: str
    label: int


class Layout(NamedTuple):
    """What a directory holds. Either `whole` is empty or `train` and `test` are; without `train` it is to test on alone."""

    classes: tuple[str, ...]
    train: list[Picture]
    test: list[Picture]
    whole: list[Picture]  # not divided
    remarks: tuple[str, ...]


def read_layout(root: Path) -> Layout:
    """Find the images of a directory: `train/CLASS/*` and `test/CLASS/*`, or `CLASS/*` alone.

    Classes are sorted as torchvision's `ImageFolder` does. Images in folders within a class's folder belong to that class.

    Raises:
        UserError: classes are missing, empty or fewer than two, images lie elsewhere, or a link leads out of the directory.
    """
    tree = _Tree(root)
    train, test = _parts(tree)
    first = train or test or root
    names = tree.classes(first)
    if empty := [name for name, images in names.items() if not images]:
        raise UserError(
            f"no images in {listed(shown(first / name) for name in empty)}: a class needs some ({' '.join(SUFFIXES)}); "
            "take folders away that are none"
        )
    if len(names) < 2:
        found = f"only the class {shown(next(iter(names)))}" if names else "no folders of classes"
        raise UserError(f"{shown(first)} has {found}: due is {TREE}, with two classes or more")
    tested = tree.classes(test) if train and test else {}
    if alien := sorted(tested.keys() - names.keys()):
        raise UserError(f"{shown(test or '')} has classes that {shown(first)} lacks: {listed(map(shown, alien))}")
    pictures, more = _pictures(first, names, names), _pictures(test or root, tested, names)
    if train and test:
        remarks = [f"the images in {shown(test.name)} are those to test on", *_untested(names, tested), *tree.remarks(train, test)]
        return Layout(tuple(map(_text, names)), pictures, more, [], tuple(remarks))
    parts = ([], pictures, []) if test else ([], [], pictures)
    return Layout(tuple(map(_text, names)), *parts, tuple(tree.remarks(first)))


class _Listing(NamedTuple):
    """What a folder holds that is neither hidden nor passed by, by name, sorted."""

    folders: dict[str, Path]
    images: dict[str, Path]


class _Tree:
    """Lists folders, each once, and counts what it passes by."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real = root.resolve()
        self._passed: Counter[tuple[str, str]] = Counter()  # by their names, of one and of several
        self._listings: dict[Path, _Listing] = {}

    def classes(self, folder: Path) -> dict[str, list[Path]]:
        """Return the images of each class's folder, and of the folders in it.

        Raises:
            UserError: images lie beside the folders.
        """
        if loose := self.listing(folder).images:
            raise UserError(
                f"{counted(len(loose), 'image')} in {shown(folder)} itself, such as {shown(next(iter(loose)))}, have no class: "
                f"due is {TREE}"
            )
        return {name: list(self._images(path)) for name, path in self.listing(folder).folders.items()}

    def listing(self, folder: Path) -> _Listing:
        """Return what a folder holds.

        Raises:
            UserError: it cannot be read, or a link in it leads out of the directory.
        """
        if folder not in self._listings:
            self._listings[folder] = self._list(folder)
        return self._listings[folder]

    def remarks(self, *parts: Path) -> Iterator[str]:
        """Say what was passed by, and what lies beside the parts."""
        if self.root not in parts:
            beside = [*self.listing(self.root).folders.values(), *self.listing(self.root).images.values()]
            if unused := [path.name for path in beside if path not in parts]:
                yield f"not used, beside {shown(parts[0].name)}: {listed(map(shown, unused))}"
        flat = {self.root, *parts}
        deep = (listing for path, listing in self._listings.items() if not {path, path.parent} & flat)
        if deep := sum(len(listing.images) for listing in deep):
            yield f"{counted(deep, 'image')} in folders within a class's folder, counted as of that class"
        for (one, many), count in self._passed.items():
            yield f"{count:,} {one if count == 1 else many} ignored"

    def _images(self, folder: Path, depth: int = 0) -> Iterator[Path]:
        if depth > DEPTH:
            raise UserError(f"a folder of {shown(self.root)} has folders within folders, more than {DEPTH} deep: take them away")
        listing = self.listing(folder)
        yield from listing.images.values()
        for path in listing.folders.values():
            yield from self._images(path, depth + 1)

    def _list(self, folder: Path) -> _Listing:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{shown(folder)} cannot be read: {error.strerror}") from error
        listing = _Listing({}, {})
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name in LITTER:
                self._passed["hidden file or folder", "hidden files and folders"] += 1
            elif entry.is_symlink() and not (target := Path(os.path.realpath(path))).is_relative_to(self._real):
                raise UserError(
                    f"{shown(path)} is a link out of {shown(self.root)}, to {shown(target)}: "
                    "put the file itself in its place, or take the link away"
                )
            elif entry.is_dir(follow_symlinks=False):
                listing.folders[entry.name] = path
            elif path.is_dir():
                self._passed["link to a folder", "links to folders"] += 1
            elif path.suffix.lower() not in SUFFIXES or not (path.is_file() or not path.exists()):  # a link to nothing is broken
                self._passed["file that is no image", "files that are no images"] += 1
            else:
                listing.images[entry.name] = path
        return listing


def _parts(tree: _Tree) -> tuple[Path | None, Path | None]:
    """Return the folders to train and to test on; None where the root's folders are classes, or a part is missing.

    One of the two without the other is a class like others where there are others.
    """
    folders = tree.listing(tree.root).folders
    lower = {name.lower(): path for name, path in reversed(folders.items())}
    train, test = (next((lower[name] for name in names if name in lower), None) for names in (TRAIN, TEST))
    if (train is None or test is None) and not lower.keys() <= {*TRAIN, *TEST}:
        return None, None
    for part in (train, test):
        if part is not None and not tree.listing(part).folders:
            raise UserError(f"{shown(part)} has no folders of classes: due is {TREE}")
    return train, test


def _pictures(folder: Path, images: Mapping[str, list[Path]], names: Mapping[str, object]) -> list[Picture]:
    numbers = {name: number for number, name in enumerate(names)}
    return [Picture(path, path.relative_to(folder).as_posix(), numbers[name]) for name, paths in images.items() for path in paths]


def _text(name: str) -> str:
    """Return a name of the file system as valid Unicode."""
    return name.encode("utf-8", "backslashreplace").decode()


def _untested(names: Mapping[str, object], tested: Mapping[str, list[Path]]) -> Iterator[str]:
    if lacking := [name for name in names if not tested.get(name)]:
        yield f"no images to test on of {listed(map(shown, lacking))}"
