"""A bundle is one file that holds a run with its network and examples, so that others can prove its results.

    bundle.json             BundleRecord, sealed with what lies beside it
    examples.safetensors    the test examples that the run's results are of, "x" as they are stored and "y"
    network.SUFFIX          of a network from elsewhere: its program, or the weights of its architecture
    run/                    the run directory's records and sealed files, without what a training or an attack goes on from

It is a zip archive whose files are stored as they are: what it holds is no larger than itself. The same run makes the same bytes.
"""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from robust_lowrank.bounds import regular_size
from robust_lowrank.errors import UserError, brief, first_line, shown
from robust_lowrank.records.documents import SCHEMA_VERSION, SealedRecord
from robust_lowrank.records.files import replacing
from robust_lowrank.records.layout import RunFiles
from robust_lowrank.records.run import Run
from robust_lowrank.records.values import CLASSES, FileName, Finite

SUFFIX = ".zip"
FILES, DEPTH = 10_000, 5  # the most files of a bundle, and names in the path of one
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}")
_ARCHITECTURE = re.compile(r"((torchvision|timm):)?[A-Za-z0-9_.]{1,200}")  # a name in a catalogue; never a function of a module
_PROGRAM = re.compile(r"network\.(pt2|onnx)")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time of a zip archive


class BundledNetwork(BaseModel, extra="forbid"):
    """A network from elsewhere, as `models.load_foreign` takes it."""

    source: str  # the file beside the record, or the name of an architecture
    weights: FileName | None = None  # of an architecture: the file beside the record
    classes: Annotated[int, Field(ge=1, le=CLASSES)] | None = None
    mean: Annotated[list[Finite], Field(max_length=1000)] | None = None
    std: Annotated[list[Finite], Field(max_length=1000)] | None = None

    @field_validator("source")
    @classmethod
    def _plain(cls, source: str) -> str:
        if not (_PROGRAM.fullmatch(source) or _ARCHITECTURE.fullmatch(source)):
            raise ValueError("should be network.pt2, network.onnx or the name of an architecture, such as torchvision:resnet18")
        return source

    @property
    def is_file(self) -> bool:
        """True where the network is a program beside the record."""
        return _PROGRAM.fullmatch(self.source) is not None


class BundleRecord(SealedRecord):
    """The document `bundle.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    network: BundledNetwork | None = None  # None: the run holds its own


class BundleFiles:
    """The files of a bundle that lies open in a directory.

    Example:
        >>> BundleFiles(Path("open")).examples.as_posix()
        'open/examples.safetensors'
    """

    def __init__(self, root: Path) -> None:
        self.root: Path = root
        self.record: Path = root / "bundle.json"
        self.examples: Path = root / "examples.safetensors"
        self.run: Path = root / "run"

    def beside(self, network: BundledNetwork | None) -> tuple[Path, ...]:
        """Return the files that the record is sealed with."""
        own = [] if network is None else [network.source] if network.is_file else [network.weights or ""]
        return (self.examples, *(self.root / name for name in own if name))


def is_bundle(path: Path) -> bool:
    """Return whether a path is, by its name, a bundle rather than a run directory."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def copy_run(run: Run, target: Path) -> None:
    """Copy a run's records and the files that they are sealed with; units, states to go on from and forms stay behind."""
    there, here = RunFiles(run.path), RunFiles(target)
    pairs = [(there.record, here.record), *zip(there.beside, here.beside, strict=True)]
    for name in run.results:
        ours, copies = there.result(name), here.result(name)
        pairs += [(ours.record, copies.record), *zip(ours.beside, copies.beside, strict=True)]
    for name in run.certificates:
        ours, copy = there.certificate(name), here.certificate(name)
        pairs += [(ours, copy), (ours.with_suffix(".parquet"), copy.with_suffix(".parquet"))]
    for source, copy in pairs:
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def pack(root: Path, path: Path) -> None:
    """Write the files of a directory as a bundle; the same files make the same bytes.

    Raises:
        UserError: a name could not be read again.
    """
    files = sorted(file for file in root.rglob("*") if file.is_file())
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            name = file.relative_to(root).as_posix()
            if not _allowed(name):
                raise UserError(f"{shown(name)} cannot stand in a bundle: rename it to letters, digits, dots and dashes")
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = 0o644 << 16
            with file.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)


@contextmanager
def unpacked(path: Path) -> Iterator[BundleFiles]:
    """Yield the files of a bundle in a directory that is gone afterwards.

    Raises:
        UserError: it is no bundle, damaged, or holds what a bundle never does: compressed files, paths that lead elsewhere.
    """
    size = regular_size(path)
    with tempfile.TemporaryDirectory(prefix="rlr-bundle-") as directory:
        root = Path(directory)
        try:
            with zipfile.ZipFile(path) as archive:
                _extract(archive, root, shown(path), size)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError) as error:
            raise UserError(f"{shown(path)} is no bundle of 'rlr-eval submit', or damaged: {first_line(error)}") from error
        try:
            yield BundleFiles(root)
        except UserError as error:
            raise UserError(str(error).replace(directory, shown(path))) from error


def _extract(archive: zipfile.ZipFile, root: Path, where: str, size: int) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    if "bundle.json" not in names:
        raise UserError(f"{where} is an archive, and no bundle of 'rlr-eval submit': it has no bundle.json")
    if len(set(map(str.lower, names))) < len(names):
        raise UserError(f"{where} holds a file twice: nobody can tell which is meant")
    if len(members) > FILES or sum(member.file_size for member in members) > size:
        raise UserError(f"{where} says that it holds more than it can: have it made again with 'rlr-eval submit'")
    for member in members:
        if not _allowed(member.filename):
            raise UserError(f"{where} holds {brief(member.filename)}, which is no name in a bundle")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size or member.flag_bits & 1:
            raise UserError(f"{where}: {brief(member.filename)} is compressed or encrypted, and files of a bundle never are")
        target = root / member.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, target.open("xb") as file:
            shutil.copyfileobj(source, file, 2**20)


def _allowed(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= DEPTH and all(_PART.fullmatch(part) for part in parts)
