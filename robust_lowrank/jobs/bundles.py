"""A run is put into a bundle that others can prove, and bundles are opened and proved."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from robust_lowrank import data, records, training
from robust_lowrank.data import Examples
from robust_lowrank.errors import UserError, first_line, shown
from robust_lowrank.jobs.chain import Location
from robust_lowrank.jobs.examination import Examination, choose_results, prove, require_network, subject_of_run
from robust_lowrank.jobs.forms import origin
from robust_lowrank.jobs.subjects import FOREIGN, Foreign, Subject, own_subject
from robust_lowrank.models.files import sha256
from robust_lowrank.records import BundledNetwork, BundleFiles, BundleRecord
from robust_lowrank.threat import OBSERVED


class Bundle(NamedTuple):
    """An open bundle: its run, and the network with the examples that come with it."""

    path: Path
    sha256: str
    run: records.Run
    subject: Subject
    faults: tuple[str, ...]  # files that are not as they were written

    def prove(self, suite: str | None = None, *, again: float | None = None, seed: int = 0) -> Examination:
        """Prove the run's results from what the bundle holds; arguments and errors are those of `examination.examine`."""
        found = prove(self.run, choose_results(self.run, suite), self.subject, again=again, seed=seed)
        inside = f"{self.run.path.parent}/"
        return found._replace(faults=tuple(fault.replace(inside, "") for fault in (*self.faults, *found.faults)))

    def foreign_examples(self, place: training.DataConfig) -> str | None:
        """Return in words how the examples are not the first test images of a data set; None where they are."""
        examples, count = place.load_examples(), len(self.subject.y)
        if data.digest(examples.x[:count], examples.y[:count]) == data.digest(self.subject.x, self.subject.y):
            return None
        return f"its {count} examples are not the first ones to test on of {place.name}"


class Submission(NamedTuple):
    """A bundle as it was written, with the proof that it passed; without a path it did not pass, and was not written."""

    path: Path | None
    sha256: str
    examples: int
    examination: Examination


def submit(
    run_dir: Path,
    target: Path,
    location: Location = Location(),  # noqa: B008 it is a tuple
    *,
    foreign: Foreign | None = None,
    trust_code: bool = False,
) -> Submission:
    """Write the bundle of a run, with its network and the examples that its results are of, if these can be proved from it.

    Args:
        target: the file, which must not be there.
        location: where the run's images lie now.
        foreign: the network of a run that was not trained here: a program (.pt2, .onnx), or an architecture with a file of weights.
        trust_code: as in `training.load_network`.

    Raises:
        UserError: there is nothing to prove, the network is code that others would have to run, or `target` is there.
    """
    if target.exists():
        raise UserError(f"{target} is there already: move it away, or choose another file with --out")
    if origin(run_dir) is not None:
        raise UserError(f"{run_dir} is a form of another run's network: submit that run, or attack the form's program with --model")
    run = records.read_run(run_dir)
    choose_results(run, None)
    network = None if foreign is None else _bundled(foreign)
    subject = subject_of_run(run, location, foreign, trust_code)
    subject = subject.first(max(_counts(run), default=0))
    with TemporaryDirectory(prefix="rlr-submit-") as directory:
        files = BundleFiles(Path(directory))
        records.copy_run(run, files.run)
        save_file({"x": _compact(subject.images), "y": subject.y.contiguous()}, files.examples)
        if foreign is not None and network is not None:
            source = Path(foreign.source) if network.is_file else foreign.weights
            (files.root / (network.source if network.is_file else network.weights or "")).write_bytes(
                Path(source or "").read_bytes()
            )
        records.write_sealed(files.record, BundleRecord(network=network), files.beside(network))
        examination = _opened(files, target, "", trust_code=trust_code).prove()
        if not examination.sound:
            return Submission(None, "", len(subject.y), examination)
        records.pack(files.root, target)
    return Submission(target, sha256(target), len(subject.y), examination)


@contextmanager
def opened(path: Path, *, trust_code: bool = False) -> Iterator[Bundle]:
    """Yield a bundle, whose files are gone afterwards.

    Raises:
        UserError: it is no bundle, damaged, or its network is not the one that its results are of.
    """
    with records.unpacked(path) as files:
        yield _opened(files, path, sha256(path), trust_code=trust_code)


def _opened(files: BundleFiles, path: Path, digest: str, *, trust_code: bool) -> Bundle:
    record = records.read_record(files.record, BundleRecord)
    run = records.read_run(files.run)
    images, labels = _examples(files, path)
    if record.network is None:
        if run.record.method == FOREIGN:
            raise UserError(f"{shown(path)} does not hold the network that its results are of: have it submitted again")
        subject = own_subject(files.run, images, labels, trust_code=trust_code)
    else:
        subject = _foreign(files, record.network, run, images, labels, trust_code=trust_code)
    return Bundle(path, digest, run, subject, tuple(records.broken_seals(files.record, record, files.beside(record.network))))


def _foreign(
    files: BundleFiles, network: BundledNetwork, run: records.Run, images: Tensor, labels: Tensor, *, trust_code: bool
) -> Subject:
    weights = None if network.weights is None else files.root / network.weights
    if not network.is_file and weights is None:
        raise UserError(f"the network {network.source} has no weights in the bundle: have it submitted again")
    foreign = Foreign(
        str(files.root / network.source) if network.is_file else network.source,
        weights,
        training.DataConfig(),
        classes=network.classes,
        mean=None if network.mean is None else tuple(network.mean),
        std=None if network.std is None else tuple(network.std),
        trust_code=trust_code,
    )
    subject, _ = foreign.on(Examples(data.unit_range(images), labels, "", tuple(run.record.classes)))
    require_network(run, subject, network.source)
    return subject


def _bundled(foreign: Foreign) -> BundledNetwork:
    """Return how a network from elsewhere is named in a bundle.

    Raises:
        UserError: it is code, which nobody should have to run to prove a result.
    """
    suffix = Path(foreign.source).suffix.lower()
    source, weights = foreign.source, None
    if suffix in (".pt2", ".onnx"):
        source = f"network{suffix}"
    elif foreign.weights is not None:
        weights = f"network{foreign.weights.suffix.lower()}"
    settings = {key: None if value is None else list(value) for key, value in (("mean", foreign.mean), ("std", foreign.std))}
    try:
        if source == foreign.source and weights is None:
            raise ValueError
        return BundledNetwork(source=source, weights=weights, classes=foreign.classes, **settings)
    except ValueError as error:
        raise UserError(
            f"{shown(foreign.source)} is code, which nobody should have to run to prove a result: write the network as a program, "
            "torch.export.save(torch.export.export(model.eval(), (x,)), 'network.pt2'), attack that file and submit its run"
        ) from error


def _counts(run: records.Run) -> Iterator[int]:
    """Yield of how many examples each result and certificate of a run is, and of how many its behaviour was observed."""
    yield OBSERVED
    for result in run.results.values():
        yield result.record.accuracies[0].total if result.record.accuracies else 0
    for certificate in run.certificates.values():
        yield len(certificate.table)


def _compact(images: Tensor) -> Tensor:
    """Return images as bytes where that is what they are, so that they take a quarter of the room."""
    if images.dtype == torch.float32:
        stored = (images * 255).round().clamp(0, 255).to(torch.uint8)
        if torch.equal(data.unit_range(stored), images):
            return stored.contiguous()
    return images.contiguous()


def _examples(files: BundleFiles, path: Path) -> tuple[Tensor, Tensor]:
    try:
        tensors = load_file(files.examples)
        x, y = tensors["x"], tensors["y"]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{shown(path)}: its examples cannot be read: {first_line(error)}") from error
    if x.dtype not in (torch.uint8, torch.float32) or x.dim() < 2 or y.dtype != torch.int64 or y.shape != x.shape[:1] or not len(y):
        raise UserError(f"{shown(path)}: its examples are no inputs with a label each")
    return x, y
