"""Files in the place of weights, each with one attack in it, or one thing that is no weights.

`make_...(folder)` writes a file and returns it; its docstring says what is wrong with it. The network that it pretends to be of is
`network()`.
"""

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from tests.hostile import Code

Maker = Callable[[Path], Path]


def network() -> nn.Module:
    """Return the network that the files pretend to hold the weights of."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def _saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _with(change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return the network's weights, the matrix among them changed."""
    state = network().state_dict()
    return state | {"1.weight": change(state["1.weight"])}


def make_pickled_code(folder: Path) -> Path:
    """A pickled object that touches a file."""
    return _written(folder / "code.pth", pickle.dumps(Code(folder), protocol=2))


def make_code_beside_weights(folder: Path) -> Path:
    """Weights with a pickled object beside them that touches a file."""
    return _saved(folder / "beside.pt", {"state_dict": network().state_dict(), "config": Code(folder)})


def make_old_code(folder: Path) -> Path:
    """The same in the format of before torch 1.6."""
    torch.save({"state_dict": Code(folder)}, path := folder / "old.pt", _use_new_zipfile_serialization=False)
    return path


def make_tar(folder: Path) -> Path:
    """The tar format of the first torch, which is unpacked to a directory and unpickled."""
    with tarfile.open(path := folder / "first.tar", "w") as file:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Code(folder), protocol=2)
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return path


def _repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    torch.save(network().state_dict(), written := io.BytesIO())
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return path


def make_compressed(folder: Path) -> Path:
    """An archive of torch that is compressed, a thousandth of what it holds."""
    return _repacked(folder / "bomb.pth", lambda name, content: content + bytes(1 << 25) * ("data/" in name), zipfile.ZIP_DEFLATED)


def make_overlapping(folder: Path) -> Path:
    """An archive whose directory says that the same bytes are many files."""
    path = _repacked(folder / "overlap.pth", lambda name, content: content)
    with zipfile.ZipFile(path, "a") as file:
        place = next(member for member in file.infolist() if member.filename.endswith("data/0"))
        for n in range(50):
            twin = zipfile.ZipInfo(f"{place.filename}{n}0")
            for field in ("file_size", "compress_size", "CRC", "header_offset", "flag_bits"):
                setattr(twin, field, getattr(place, field))
            file.filelist.append(twin)
        file.comment = b"so that the directory is written anew"
    return path


def make_inflated(folder: Path) -> Path:
    """An archive that declares a million times as many numbers as it holds."""
    few, many = b"M\x80\x02", b"J" + struct.pack("<i", 640_000_000)  # 640 as a pickle has it
    return _repacked(
        folder / "inflated.pth", lambda name, content: content.replace(few, many) if name.endswith("data.pkl") else content
    )


def make_expanded(folder: Path) -> Path:
    """One number is declared to be a matrix with a million rows and columns."""
    return _saved(folder / "expanded.pth", {"1.weight": torch.zeros(1).expand(10**6, 10**6), "1.bias": torch.zeros(10)})


def make_meta(folder: Path) -> Path:
    """A matrix without values."""
    return _saved(folder / "meta.pth", _with(lambda tensor: torch.empty(10**6, 10**6, device="meta")))


def make_sparse(folder: Path) -> Path:
    """A sparse matrix."""
    return _saved(
        folder / "sparse.pth",
        _with(lambda tensor: torch.eye(2).to_sparse()),
    )


def make_complex(folder: Path) -> Path:
    """A complex matrix, of which a copy would lose a half."""
    return _written(folder / "complex.safetensors", save(_with(lambda tensor: tensor.to(torch.complex64))))


def make_truths(folder: Path) -> Path:
    """A matrix of truths."""
    return _written(folder / "truths.safetensors", save(_with(lambda tensor: tensor > 0)))


def make_integers(folder: Path) -> Path:
    """A matrix of integers."""
    return _saved(folder / "integers.pth", _with(lambda tensor: tensor.to(torch.int32)))


def make_other_shape(folder: Path) -> Path:
    """A matrix of another shape."""
    return _saved(folder / "shape.bin", _with(lambda tensor: torch.zeros(10, 3, 3, 3, 3, 3, 3)))


def make_other_names(folder: Path) -> Path:
    """Names that are not the network's, with an escape sequence in one of them."""
    return _saved(folder / "names.ckpt", {"\x1b[2J\nweight": torch.zeros(2)})


def make_deep_name(folder: Path) -> Path:
    """A name of ten thousand parts, which a module would be made for each."""
    return _written(folder / "deep.safetensors", save({".".join(["a"] * 10_000) + ".weight": torch.eye(2)}))


def make_no_names(folder: Path) -> Path:
    """A list."""
    return _saved(folder / "list.pth", [torch.zeros(2)])


def make_deep_pickle(folder: Path) -> Path:
    """Mappings nested deeper than Python calls functions."""
    content = b"\x80\x02" + b"}X\x01\0\0\0a" * 100_000 + b"}" + b"s" * 100_000 + b"."
    return _repacked(folder / "nested.pth", lambda name, old: content if name.endswith("data.pkl") else old)


def make_whole_network(folder: Path) -> Path:
    """A pickled network in the place of its weights."""
    return _saved(folder / "whole.pth", network())


def make_page(folder: Path) -> Path:
    """A web page."""
    return _written(folder / "page.pth", b"\xef\xbb\xbf\n<!doctype HTML>\n<html>Quota exceeded</html>")


def make_page_of_safetensors(folder: Path) -> Path:
    """A web page with the name of a safetensors file."""
    return _written(folder / "page.SAFETENSORS", b"<html><head></head></html>")


def make_pointer(folder: Path) -> Path:
    """A pointer of Git LFS."""
    return _written(folder / "pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def make_refusal(folder: Path) -> Path:
    """A server's refusal in JSON."""
    return _written(folder / "refusal.bin", b'{"error": "Repository not found"}')


def make_xml(folder: Path) -> Path:
    """A server's refusal in XML."""
    return _written(folder / "refusal.th", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')


def make_empty(folder: Path) -> Path:
    """Nothing."""
    return _written(folder / "empty.pth", b"")


def make_gzip(folder: Path) -> Path:
    """Compressed weights."""
    return _written(folder / "packed.pth", gzip.compress(bytes(1 << 20)))


def make_torch_as_safetensors(folder: Path) -> Path:
    """A file of torch with the name of a safetensors file."""
    return _saved(folder / "torch.safetensors", network().state_dict())


def make_safetensors_as_torch(folder: Path) -> Path:
    """A safetensors file with the name of one of torch."""
    return _written(folder / "safetensors.pth", save(network().state_dict()))


def _header(path: Path, text: bytes, length: int | None = None) -> Path:
    return _written(path, struct.pack("<Q", len(text) if length is None else length) + text + bytes(64))


def make_long_header(folder: Path) -> Path:
    """A header that is to be larger than any file."""
    return _header(folder / "header.safetensors", b'{"w": 1}', 2**63 - 1)


def make_wide_header(folder: Path) -> Path:
    """A header of 20 MB of blanks."""
    return _header(folder / "wide.safetensors", b"{" + b" " * 20_000_000 + b"}")


def make_deep_header(folder: Path) -> Path:
    """A header that is nested a hundred thousand times."""
    return _header(folder / "nested.safetensors", b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def make_declared(folder: Path) -> Path:
    """A header that declares more numbers than there are bytes."""
    said = {"1.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}
    return _header(folder / "declared.safetensors", json.dumps(said).encode())


def _described(path: Path, header: str) -> Path:
    save_file(network().state_dict(), path, metadata={"robust_lowrank": header})
    return path


def make_deep_description(folder: Path) -> Path:
    """A description of layers that is nested deeper than Python calls functions."""
    return _described(folder / "description.safetensors", "[" * 100_000 + "]" * 100_000)


def make_long_number(folder: Path) -> Path:
    """A description of layers with a number of five thousand digits."""
    return _described(folder / "number.safetensors", '{"version": ' + "1" * 5000 + ', "layers": {}}')


def _layer(folder: Path, name: str, entry: Any) -> Path:
    return _described(folder / name, json.dumps({"version": 1, "layers": {"1": entry}}))


def make_large_rank(folder: Path) -> Path:
    """A layer that is described to have a rank of a million million."""
    return _layer(folder, "rank.safetensors", {"method": {"name": "vanilla"}, "ranks": [10**12]})


def make_endless_rank(folder: Path) -> Path:
    """A layer that is described to have an infinite rank."""
    return _layer(folder, "endless.safetensors", {"method": {"name": "vanilla"}, "ranks": [float("inf")]})


def make_other_method(folder: Path) -> Path:
    """A layer whose method is a path of Python's."""
    return _layer(folder, "method.safetensors", {"method": {"name": "os.system", "command": "true"}, "ranks": [1]})


def make_other_options(folder: Path) -> Path:
    """A layer whose method has an option of another kind."""
    return _layer(folder, "options.safetensors", {"method": {"name": "condlr", "tau": {"a": []}}, "ranks": [1]})


HOSTILE: tuple[Maker, ...] = (
    make_pickled_code, make_code_beside_weights, make_old_code, make_tar, make_compressed, make_overlapping, make_inflated,
    make_expanded, make_meta, make_sparse, make_complex, make_truths, make_integers, make_other_shape, make_other_names,
    make_deep_name, make_no_names, make_deep_pickle, make_whole_network, make_page, make_page_of_safetensors, make_pointer,
    make_refusal, make_xml, make_empty, make_gzip, make_torch_as_safetensors, make_safetensors_as_torch, make_long_header,
    make_wide_header, make_deep_header, make_declared, make_deep_description, make_long_number, make_large_rank, make_endless_rank,
    make_other_method, make_other_options,
)  # fmt: skip
"""None of which is read into `network()`."""
NO_SPECTRA: tuple[Maker, ...] = tuple(
    maker for maker in HOSTILE
    if maker not in (make_complex, make_truths, make_integers, make_other_shape, make_other_names, make_other_options)
)  # fmt: skip
"""Those whose layers nothing can be said of."""
