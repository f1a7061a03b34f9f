"""Bundles as a stranger would send them: each function here writes one of the run in a folder that is not what it should be."""

import shutil
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from robust_lowrank import records
from robust_lowrank.records import BundledNetwork, BundleFiles, BundleRecord
from robust_lowrank.training import DataConfig

Member = tuple[zipfile.ZipInfo, bytes]


def pack_run(run: Path, target: Path, network: BundledNetwork | None = None) -> Path:
    """Pack a run, sound or not, with the first test digits, unseen."""
    files = BundleFiles(root := target.with_suffix(".open"))
    shutil.copytree(run, files.run, ignore=shutil.ignore_patterns(".*", "units", "resume"), symlinks=True)
    digits = DataConfig(name="digits").load()
    save_file({"x": digits.test_images[:12].clone(), "y": digits.test_y[:12].clone()}, files.examples)
    records.write_sealed(files.record, BundleRecord.model_construct(network=network), (files.examples,))
    records.pack(root, target)
    shutil.rmtree(root)
    return target


def _changed(place: Path, change: Callable[[list[Member]], Iterator[Member]], compression: int = zipfile.ZIP_STORED) -> Path:
    path = pack_run(place / "run", place / "bundle.zip")
    with zipfile.ZipFile(path) as archive:
        members = [(member, archive.read(member)) for member in archive.infolist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of a name that is there twice
        for member, content in change(members):
            archive.writestr(member, content, compression)
    return path


def _more(*added: Member) -> Callable[[list[Member]], Iterator[Member]]:
    def change(members: list[Member]) -> Iterator[Member]:
        yield from members
        yield from added

    return change


def make_packed_bundle(place: Path) -> Path:
    """Its files are compressed: a bundle of a kilobyte could hold gigabytes."""
    return _changed(place, _more((zipfile.ZipInfo("run/zeros"), bytes(2**28))), zipfile.ZIP_DEFLATED)


def make_path_out_of_it(place: Path) -> Path:
    """A file would be written beside the directory that it is opened in."""
    return _changed(place, _more((zipfile.ZipInfo("../../escaped"), b"here")))


def make_absolute_path(place: Path) -> Path:
    """A file would be written wherever the bundle says."""
    return _changed(place, _more((zipfile.ZipInfo(str(place / "escaped")), b"here")))


def make_windows_path(place: Path) -> Path:
    r"""A backslash leads elsewhere on some systems."""
    return _changed(place, _more((zipfile.ZipInfo("run\\..\\..\\escaped"), b"here")))


def make_link(place: Path) -> Path:
    """A link leads to a file of the system, which would be read as a table."""
    member = zipfile.ZipInfo("run/monitor.parquet")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return _changed(place, _more((member, b"/etc/passwd")))


def make_file_twice(place: Path) -> Path:
    """Two records: who looks at one may believe the other."""

    def change(members: list[Member]) -> Iterator[Member]:
        yield from members
        yield from (
            (member, content.replace(b"CondLR", b"Better")) for member, content in members if member.filename == "run/run.json"
        )

    return _changed(place, change)


def make_many_files(place: Path) -> Path:
    """It holds a hundred thousand files."""
    return _changed(place, _more(*((zipfile.ZipInfo(f"run/f{number}"), b"") for number in range(100_000))))


def make_cut_bundle(place: Path) -> Path:
    """Its end is missing."""
    path = pack_run(place / "run", place / "bundle.zip")
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def make_other_archive(place: Path) -> Path:
    """It is an archive of something else."""
    path = place / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "hello")
    return path


def make_archive_in_name_only(place: Path) -> Path:
    """It is no archive."""
    (path := place / "bundle.zip").write_bytes(b"PK\3\4" + bytes(1000))
    return path


def make_claimed_size(place: Path) -> Path:
    """Its table of contents says that a file has four gigabytes."""
    path = pack_run(place / "run", place / "bundle.zip")
    content = bytearray(path.read_bytes())
    entry = content.rfind(b"PK\1\2")
    content[entry + 20 : entry + 28] = (2**32 - 2).to_bytes(4, "little") * 2
    path.write_bytes(bytes(content))
    return path


def make_function_as_network(place: Path) -> Path:
    """Its network is a function that ends the process."""
    return pack_run(
        place / "run", place / "bundle.zip", BundledNetwork.model_construct(source="os:abort", weights="examples.safetensors")
    )


def make_program_of_the_system(place: Path) -> Path:
    """Its network is a file elsewhere."""
    return pack_run(place / "run", place / "bundle.zip", BundledNetwork.model_construct(source="../../etc/network.pt2"))


def make_weights_elsewhere(place: Path) -> Path:
    """Its weights are a file elsewhere."""
    network = BundledNetwork.model_construct(source="mlp", weights="../../../../etc/passwd", classes=10)
    return pack_run(place / "run", place / "bundle.zip", network)


def make_many_classes(place: Path) -> Path:
    """Its architecture would be made with billions of classes."""
    network = BundledNetwork.model_construct(source="mlp", weights="examples.safetensors", classes=10**12)
    return pack_run(place / "run", place / "bundle.zip", network)


def _with_examples(place: Path, **tensors: torch.Tensor) -> Path:
    def change(members: list[Member]) -> Iterator[Member]:
        for member, content in members:
            if member.filename == "examples.safetensors":
                (path := place / "examples.tmp").write_bytes(content)
                save_file(load_file(path) | tensors, path)
                content = path.read_bytes()
                path.unlink()
            yield member, content

    return _changed(place, change)


def make_examples_of_numbers(place: Path) -> Path:
    """Its examples are not images of the shape that the network takes."""
    return _with_examples(place, x=torch.zeros(12, 1))


def make_examples_without_end(place: Path) -> Path:
    """An example is not a number."""
    return _with_examples(place, x=torch.full((12, 1, 8, 8), torch.nan))


def make_fewer_examples(place: Path) -> Path:
    """It holds fewer examples than its results are of."""
    return _with_examples(place, x=torch.zeros(3, 1, 8, 8, dtype=torch.uint8), y=torch.zeros(3, dtype=torch.int64))


def make_no_run(place: Path) -> Path:
    """It holds everything but the run."""
    return _changed(place, lambda members: (each for each in members if not each[0].filename.startswith("run/")))
