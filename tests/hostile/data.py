"""Hostile files of data. A run of `ran` leaves the file MARKER in the working directory."""

import gzip
import io
import json
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

MARKER = "ran"


class Ran:
    """What writes the marker when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (MARKER,))


def make_bomb_npz(folder: Path) -> Path:
    """Two megabytes of `.npz` that expand to two gigabytes of zeros, and to more as floats."""
    head = _head("|u1", (2**21, 32, 32))
    path = folder / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("y.npy", _npy(np.zeros(4, dtype=np.int64)))
        with file.open("x.npy", "w", force_zip64=True) as stream:
            stream.write(head)
            for _ in range(2**21 * 32 * 32 // 2**24):
                stream.write(bytes(2**24))
    return path


def make_many_examples_npz(folder: Path) -> Path:
    """Examples of one byte each, whose numbers and labels take far more memory than they do."""
    path = folder / "many.npz"
    np.savez_compressed(path, x=np.zeros((2**26, 1), dtype=np.uint8), y=np.zeros(2**26, dtype=np.int8))
    return path


def make_pickled_npz(folder: Path) -> Path:
    """Labels that are pickled objects, which run code where they are unpickled."""
    path = folder / "pickled.npz"
    np.savez(path, x=np.zeros((2, 4, 4)), y=np.array([Ran(), Ran()], dtype=object))
    return path


def make_lying_npz(folder: Path) -> Path:
    """A head that announces 2**62 bytes, of which four follow."""
    return _zip(folder / "lying.npz", {"x.npy": _head("<f4", (2**60, 1)) + bytes(4), "y.npy": _npy(np.zeros(1, dtype=int))})


def make_endless_classes_npz(folder: Path) -> Path:
    """2**40 class names of no characters, which take no byte and for ever."""
    arrays = {"x.npy": _npy(np.zeros((2, 4, 4))), "y.npy": _npy(np.arange(2)), "classes.npy": _head("<U0", (2**40,))}
    return _zip(folder / "classes.npz", arrays)


def make_nested_head_npz(folder: Path) -> Path:
    """A head of nested brackets, on which evaluating it would exhaust the stack."""
    head = b"[" * 30000 + b"\n"
    return _zip(folder / "nested.npz", {"x.npy": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head, "y.npy": b""})


def make_twofold_npz(folder: Path) -> Path:
    """Two members of one name, of which different readers take different ones."""
    path = folder / "twofold.npz"
    members = (("a.npy", np.zeros((2, 4, 4))), ("x.npy", np.ones((2, 4, 4))), ("y.npy", np.arange(2)))
    with zipfile.ZipFile(path, "w") as file:
        for name, array in members:
            file.writestr(name, _npy(array))
    path.write_bytes(path.read_bytes().replace(b"a.npy", b"x.npy"))
    return path


def make_climbing_npz(folder: Path) -> Path:
    """A member whose name would leave the folder where the archive is extracted."""
    arrays = {"../../escaped.npy": b"escaped", "x.npy": _npy(np.zeros((2, 4, 4))), "y.npy": b"no array"}
    return _zip(folder / "climbing.npz", arrays)


def make_lying_safetensors(folder: Path) -> Path:
    """A head of safetensors that says it is 2**63 bytes long."""
    path = folder / "lying.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' + bytes(8))
    return path


def make_wide_safetensors(folder: Path) -> Path:
    """A shape whose product is beyond 64 bits."""
    head = json.dumps({"x": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 8]}}).encode()
    path = folder / "wide.safetensors"
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(8))
    return path


def make_pipe_npz(folder: Path) -> Path:
    """A named pipe in the place of a file of arrays, which waits for ever for a writer."""
    os.mkfifo(path := folder / "pipe.npz")
    return path


def make_endless_npz(folder: Path) -> Path:
    """A link to a device that never ends."""
    (path := folder / "endless.npz").symlink_to("/dev/zero")
    return path


def make_lying_idx(folder: Path) -> Path:
    """Idx files of MNIST's names that announce 2**96 bytes: a data directory."""
    return _mnist(folder / "lying-idx", bytes((0, 0, 8, 3)) + b"\xff" * 12 + bytes(9), packed=False)


def make_bomb_gz(folder: Path) -> Path:
    """Idx files of MNIST's names, packed, that expand to a gigabyte each: a data directory."""
    size = 2**30
    return _mnist(folder / "bomb-gz", bytes((0, 0, 8, 1)) + struct.pack(">I", size), packed=True, zeros=size)


def make_overlong_gz(folder: Path) -> Path:
    """Idx files that announce four bytes and go on for a gigabyte: a data directory."""
    return _mnist(folder / "overlong-gz", bytes((0, 0, 8, 1)) + struct.pack(">I", 4), packed=True, zeros=2**30)


def make_bomb_png(folder: Path) -> Path:
    """A PNG of a hundred kilobytes with 80 million pixels, below the limit of pillow: a directory of images."""
    return _classes(folder / "bomb-png", _png(10_000, 8_000))


def make_text_bomb_png(folder: Path) -> Path:
    """PNGs whose compressed comments expand to gigabytes: a directory of images."""
    text = _chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26), 9))
    return _classes(folder / "text-png", _png(8, 8, text * 30))


def make_many_frames_gif(folder: Path) -> Path:
    """A GIF of thousands of frames: a directory of images."""
    frames = [Image.new("L", (4, 4), number % 256) for number in range(3000)]
    frames[0].save(stream := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:])
    return _classes(folder / "frames-gif", stream.getvalue())


def make_many_scans_jpeg(folder: Path) -> Path:
    """A progressive JPEG whose last scan is repeated thousands of times, each of them a pass over all pixels."""
    Image.new("L", (4000, 4000)).save(stream := io.BytesIO(), "JPEG", progressive=True)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    return _classes(folder / "scans-jpeg", content[:last] + content[last:-2] * 20_000 + content[-2:])


def make_link_out(folder: Path) -> Path:
    """An image that is a link to a file outside the directory: a directory of images."""
    secret = folder / "secret.png"
    secret.write_bytes(_png(8, 8))
    root = _classes(folder / "link-out", _png(8, 8))
    (root / "cat/more.png").symlink_to(secret)
    return root


def make_deep_folders(folder: Path) -> Path:
    """Folders within folders, towards what a recursion can go through: a directory of images."""
    root = _classes(folder / "deep", _png(8, 8))
    (root / "cat" / Path(*["d"] * 400)).mkdir(parents=True)
    return root


def make_pickled_cifar(folder: Path) -> Path:
    """Batches in the place of CIFAR-10's, which run code where they are unpickled: a data directory."""
    import pickle

    root = folder / "pickled-cifar"
    (batches := root / "cifar-10-batches-py").mkdir(parents=True)
    for name in ("batches.meta", *(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (batches / name).write_bytes(pickle.dumps(Ran()))
    return root


def make_nested_index(folder: Path) -> Path:
    """An index of a rebuilt tree, nested deeper than a parser can go: a data directory."""
    (root := folder / "nested-index").mkdir()
    (root / "index.json").write_text("[" * 100_000)
    return root


def _head(kind: str, shape: tuple[int, ...]) -> bytes:
    np.lib.format.write_array_header_1_0(stream := io.BytesIO(), {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _npy(array: np.ndarray) -> bytes:
    np.save(stream := io.BytesIO(), array)
    return stream.getvalue()


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def _mnist(root: Path, content: bytes, *, packed: bool, zeros: int = 0) -> Path:
    from robust_lowrank.data.sources.idx import FILES

    root.mkdir()
    first = root / f"{FILES[0]}{'.gz' if packed else ''}"
    with gzip.open(first, "wb") if packed else first.open("wb") as file:
        file.write(content)
        for _ in range(zeros // 2**24):
            file.write(bytes(2**24))
    for name in FILES[1:]:
        (root / f"{name}{first.suffix if packed else ''}").write_bytes(first.read_bytes())
    return root


def _classes(root: Path, content: bytes) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            (root / name / f"{number}.png").write_bytes(content)
    return root


def _png(width: int, height: int, between: bytes = b"") -> bytes:
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + between + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
