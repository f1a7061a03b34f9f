"""A plain program needs no trust: it is written anew from what is known of it, and torch reads that."""

import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import TypeVar

import torch
from pydantic import ValidationError
from torch.utils import _pytree as pytree

from robust_lowrank.errors import UserError, shown
from robust_lowrank.models.files import stored_members
from robust_lowrank.models.program_graph import Said
from robust_lowrank.models.program_schema import Payloads, Program

TRUST = (
    "--trust-code, in Python trust_code=True, loads it all the same: its code then runs with your rights, "
    "so give that only where you trust whoever made it"
)
LARGEST_TEXT = 32 << 20  # bytes of a program without its weights
OBJECTS = ("opaque_obj", "custom_obj")  # names of pickled objects
GRAPH = "models/model.json"
TENSORS = {"data/weights": "model_weights_config.json", "data/constants": "model_constants_config.json"}
EXAMPLE = "data/sample_inputs/model.pt"
SHORT: dict[str, tuple[bytes, ...]] = {  # what else torch reads, and what it may be
    "archive_format": (b"pt2",),
    "archive_version": (b"0", b"1"),
    ".data/version": tuple(b"%d" % version for version in range(100)),
    "byteorder": (b"little", b"big"),
}

_Kind = TypeVar("_Kind", bound=Said)


def plain_program(path: Path) -> io.BytesIO:
    """Return an exported program as a file that says no more than computing with tensors takes.

    Left out are notes on where its operations came from, and example inputs, in whose place stand zeros.

    Raises:
        UserError: the file is damaged, or holds more than that, such as other operations, expressions that are no arithmetic, names
            that are no identifiers, objects, or tensors larger than their bytes.
    """
    members, written = stored_members(path), io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(written, "w", zipfile.ZIP_STORED) as target:
        archive = _Archive(path, members, source)
        program = archive.parse(GRAPH, Program)
        for name, known in SHORT.items():
            if name in archive.sizes:
                target.writestr(f"plain/{name}", archive.one_of(name, known))
        target.writestr(f"plain/{GRAPH}", program.model_dump_json(exclude_unset=True))
        target.writestr(f"plain/{EXAMPLE}", _example(program))
        for folder, config in TENSORS.items():
            payloads = archive.parse(f"{folder}/{config}", Payloads)
            for name, payload in payloads.config.items():
                if not payload.fits(archive.sizes.get(f"{folder}/{payload.path_name}", -1)):
                    raise UserError(f"{path} is damaged: its tensor {name} is larger than what the file holds of it")
            target.writestr(f"plain/{folder}/{config}", payloads.model_dump_json(exclude_unset=True))
            for file in sorted({payload.path_name for payload in payloads.config.values()}):
                target.writestr(f"plain/{folder}/{file}", archive.read(f"{folder}/{file}"))
    written.seek(0)
    return written


class _Archive:
    """The files of an exported program, by their names without the archive's own."""

    def __init__(self, path: Path, members: dict[str, zipfile.ZipInfo], file: zipfile.ZipFile) -> None:
        roots = {PurePosixPath(name).parts[0] for name in members}
        self.path: Path = path
        self.root: str = min(roots, default="")
        self.sizes: dict[str, int] = {name.partition("/")[2]: member.file_size for name, member in members.items()}
        self.file: zipfile.ZipFile = file
        if len(roots) != 1:
            raise self.refuse(f"it has the roots {', '.join(sorted(map(shown, roots))[:4])}")
        for name in self.sizes:
            if any(kind in name for kind in OBJECTS):
                raise self.refuse(f"it has a pickled object, {shown(name)[:80]}")
            if name.startswith("data/aotinductor/"):
                raise self.refuse(f"it has compiled code, {shown(name)[:80]}")

    def refuse(self, why: str) -> UserError:
        """Return the error that says why the program is no plain one."""
        return UserError(f"{self.path} is no plain program, {why}: refused\n{TRUST}")

    def read(self, name: str, largest: int | None = None) -> bytes:
        """Return what a file holds."""
        if name not in self.sizes:
            raise UserError(
                f"{self.path} is damaged, or of a version of torch whose programs are packed otherwise: {name} is missing"
            )
        if largest is not None and self.sizes[name] > largest:
            raise UserError(f"{self.path} holds {self.sizes[name]:,} bytes of {name}, where {largest:,} are enough for any network")
        try:
            return self.file.read(f"{self.root}/{name}")
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise UserError(f"{self.path} is damaged: {name} cannot be read") from error

    def one_of(self, name: str, known: tuple[bytes, ...]) -> bytes:
        """Return what a file holds, if it is known."""
        found = self.read(name, 16)
        if found.strip() not in known:
            raise UserError(f"{self.path} is of a version of torch that this one cannot read, or damaged: {name} is {found!r}")
        return found

    def parse(self, name: str, kind: type[_Kind]) -> _Kind:
        """Return what a file of JSON says."""
        try:
            return kind.model_validate_json(self.read(name, LARGEST_TEXT))
        except ValidationError as error:
            first = error.errors()[0]
            where, what = shown(".".join(map(str, first["loc"])))[-120:], shown(first["msg"].removeprefix("Value error, "))[:160]
            if first["type"] == "json_invalid":
                raise UserError(f"{self.path} is damaged: {name} is no JSON") from error
            raise self.refuse(f"it has {what} at {where}") from error


def _example(program: Program) -> bytes:
    """Return inputs as they are packed, with zeros in the place of values."""
    calls = [call.signature for call in program.graph_module.module_call_graph if call.fqn == "" and call.signature is not None]
    if not calls:
        return b""
    packing = pytree.treespec_loads(calls[0].in_spec)
    written = io.BytesIO()
    torch.save(pytree.tree_unflatten([torch.zeros(())] * packing.num_leaves, packing), written)
    return written.getvalue()
