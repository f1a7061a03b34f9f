"""Files of data, damaged or made of noise: what reads them refuses in words, and does nothing else."""

import gzip
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from robust_lowrank.data.decoding import decode
from robust_lowrank.data.npy import read_npy
from robust_lowrank.data.reading import Reading
from robust_lowrank.data.sources.cifar import load_cifar10
from robust_lowrank.data.sources.idx import read_idx
from robust_lowrank.data.stored import load_stored, stored_examples
from tests.fuzz import fuzzed
from tests.fuzz.mutating import arbitrary, only_refuses

X, Y = np.linspace(0, 1, 96, dtype=np.float32).reshape(6, 4, 4), np.arange(6) % 3
IDX = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3)) + bytes(range(12))


def npz(**arrays: np.ndarray) -> bytes:
    np.savez(stream := io.BytesIO(), **arrays)
    return stream.getvalue()


def packed(**arrays: np.ndarray) -> bytes:
    np.savez_compressed(stream := io.BytesIO(), **arrays)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    np.save(stream := io.BytesIO(), array)
    return stream.getvalue()


def picture(form: str, **options: object) -> bytes:
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    image.save(stream := io.BytesIO(), form, **options)
    return stream.getvalue()


KINDS = ("<f4", "|u1", "<U0", "|V0", "<U9", "|O", "<c8")
NPZ = (npz(x=X, y=Y), packed(x=X, y=Y, classes=np.array(["a", "b", "c"])), npz(train_x=X, train_y=Y, test_x=X, test_y=Y))
HELD = {"x": torch.from_numpy(X), "y": torch.from_numpy(Y)}
HALVES = {"x": torch.zeros(3, 2, dtype=torch.float16), "y": torch.arange(3), "more": torch.zeros(0)}
PICTURES = [
    picture(form, **options)
    for form, options in (
        ("BMP", {}),
        ("GIF", {"save_all": True, "append_images": [Image.new("L", (8, 8), 9)]}),
        ("JPEG", {"progressive": True}),
        ("PNG", {"pnginfo": None}),
        ("PPM", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    )
]


@pytest.mark.parametrize("read", [load_stored, stored_examples])
@fuzzed
@given(content=arbitrary(*NPZ))
def test_npz(read, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.npz"
    path.write_bytes(content)
    only_refuses(lambda: load_stored("some", path, Reading()) if read is load_stored else stored_examples(path, Reading()))


@fuzzed
@given(content=arbitrary(save(HELD), save(HALVES)))
def test_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    only_refuses(lambda: stored_examples(path, Reading()))


@fuzzed
@given(content=arbitrary(npy(X), npy(Y), npy(X.astype("<f2").T), npy(np.array(["a", "bc"]))))
def test_npy(content: bytes) -> None:
    only_refuses(lambda: read_npy(io.BytesIO(content), len(content), "some.npy"))


@fuzzed
@given(
    shape=st.lists(st.integers(-(2**70), 2**70), max_size=40),
    kind=st.sampled_from(KINDS),
)
def test_heads_of_npy_that_lie(shape: list[int], kind: str) -> None:
    head = str({"descr": kind, "fortran_order": False, "shape": tuple(shape)}).encode() + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(64)
    only_refuses(lambda: read_npy(io.BytesIO(content), len(content), "some.npy"))


@pytest.mark.parametrize("suffix", ["", ".gz"])
@fuzzed
@given(content=arbitrary(IDX))
def test_idx(suffix: str, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"some-idx{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    only_refuses(lambda: read_idx(path, sha256=hashlib.sha256(content).hexdigest(), what="some"))


@fuzzed
@given(content=arbitrary(gzip.compress(IDX)))
def test_gz(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some-idx.gz"
    path.write_bytes(content)
    only_refuses(lambda: read_idx(path, sha256=hashlib.sha256(IDX).hexdigest(), what="some"))


@pytest.fixture(scope="module")
def resizing() -> None:
    """Load what resizes images, which takes seconds."""
    from torchvision.transforms import v2  # noqa: F401


@pytest.mark.usefixtures("resizing")
@fuzzed
@given(content=arbitrary(*PICTURES), size=st.sampled_from([None, 4]))
@pytest.mark.filterwarnings("ignore")  # as where images of a directory are decoded
def test_pictures(tmp_path: Path, content: bytes, size: int | None) -> None:
    path = tmp_path / "some.png"
    path.write_bytes(content)
    decoded = decode(path, Reading(size))
    assert (decoded.pixels is None) == bool(decoded.fault)


@fuzzed
@given(content=arbitrary(json.dumps({"sha256": {"train_00.webp": "0" * 64, "train_labels.npy": "1" * 64}}).encode()))
def test_the_index_of_a_rebuilt_tree(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    only_refuses(lambda: load_cifar10(tmp_path, download=False))
