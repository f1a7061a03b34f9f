import gzip
import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robust_lowrank.data.sources.idx import FILES, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, IdxSource, read_idx
from robust_lowrank.errors import UserError

ARRAYS = {
    TRAIN_IMAGES: torch.arange(5 * 28 * 28).remainder(251).to(torch.uint8).reshape(5, 28, 28),
    TRAIN_LABELS: torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8),
    TEST_IMAGES: torch.arange(2 * 28 * 28).remainder(7).to(torch.uint8).reshape(2, 28, 28),
    TEST_LABELS: torch.tensor([9, 2], dtype=torch.uint8),
}


def idx_bytes(array: Tensor) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.numpy().tobytes()


def source() -> IdxSource:
    sums = {name: hashlib.sha256(idx_bytes(array)).hexdigest() for name, array in ARRAYS.items()}
    return IdxSource(name="tiny", torchvision="Tiny", classes=tuple("0123456789"), sha256=sums)


def write(folder: Path, *, packed: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in ARRAYS.items():
        content = idx_bytes(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("place", [".", "tiny", "Tiny/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_reads_flat_named_and_torchvision_folders(place: str, packed: bool, tmp_path: Path) -> None:
    write(tmp_path / place, packed=packed)
    data = source()(tmp_path, download=False)
    assert torch.equal(data.train_images, ARRAYS[TRAIN_IMAGES].unsqueeze(1))
    assert torch.equal(data.train_y, ARRAYS[TRAIN_LABELS].long())
    assert torch.equal(data.test_images, ARRAYS[TEST_IMAGES].unsqueeze(1))
    assert data.test_y.tolist() == [9, 2]


@pytest.mark.parametrize("missing", FILES)
def test_a_folder_with_three_of_the_four_files_is_not_enough(missing: str, tmp_path: Path) -> None:
    write(tmp_path, packed=True)
    (tmp_path / f"{missing}.gz").unlink()
    with pytest.raises(UserError, match="tiny is not in"):
        source()(tmp_path, download=False)


def test_files_of_another_data_set_under_the_same_names_are_refused(tmp_path: Path) -> None:
    write(tmp_path, packed=True)
    (tmp_path / f"{TRAIN_LABELS}.gz").write_bytes(gzip.compress(idx_bytes(ARRAYS[TRAIN_LABELS].flip(0))))
    with pytest.raises(UserError, match=f"{TRAIN_LABELS}.gz is not the file of tiny, or is damaged"):
        source()(tmp_path, download=False)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    write(tmp_path, packed=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        source()(tmp_path, download=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes((0, 0, 13, 1, 0, 0, 0, 1)) + b"\0\0\0\0", "not an idx file of unsigned bytes"),
        (bytes((0, 0, 8, 1, 0, 0, 0, 5)) + b"\1\2", "announces 5 bytes and holds 2"),
    ],
)
def test_content_must_be_what_the_header_says(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some-idx"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(path, sha256=hashlib.sha256(content).hexdigest(), what="tiny")


@pytest.mark.parametrize("packed", [True, False])
def test_names_may_have_a_dot(packed: bool, tmp_path: Path) -> None:
    write(tmp_path, packed=packed)
    for path in tmp_path.iterdir():
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert source()(tmp_path, download=False).test_y.tolist() == [9, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes((0, 0, 8, 3)) + b"\xff" * 12, "as a decompression bomb does"),
        (bytes((0, 0, 8, 1, 0, 0, 0, 4)) + bytes(2**20), "announces 4 bytes and holds more"),
        (bytes((0, 0, 8, 1, 0, 0, 0, 4)) + bytes(3), "announces 4 bytes and holds 3"),
        (bytes((0, 0, 8, 1, 0, 0, 0, 0)), "announces no bytes"),
        (bytes((0, 0, 8, 9)) + bytes(40), "with at most 3 dimensions"),
        (bytes((0, 0, 8, 3)) + bytes(9), "ends within its head"),
    ],
)
def test_packed_files_are_unpacked_no_further_than_their_head_says(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some-idx.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=message):
        read_idx(path, sha256="0" * 64, what="tiny")
