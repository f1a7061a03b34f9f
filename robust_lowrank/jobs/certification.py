"""Certificates of runs are computed and stored here."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robust_lowrank import conditioning, evaluation, provenance, records
from robust_lowrank.conditioning.lipschitz import Lipschitz
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.chain import Location, moved, stored_job
from robust_lowrank.jobs.events import Event, Report
from robust_lowrank.jobs.subjects import Subject, trained
from robust_lowrank.ranges import SEEDS, TRIES, distinct
from robust_lowrank.records import CertificateRecord, CurvePoint, LayerBound
from robust_lowrank.threat import OBSERVED

if TYPE_CHECKING:
    import pandas as pd

RADII = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)
VERSION = 3  # of the computation; raised where an older one has certified too much, or less than this one does
SAME = 1e-6  # within which numbers of another machine are the same
CHOICE = 100  # samples of smoothing that choose a class
SMOOTHING = (
    "L2 distances of inputs, as the network takes them (images in [0, 1])",
    "it is of the smoothed network, the class found most often under Gaussian noise, not of the network itself",
    "each example's certificate is wrong with a probability of at most alpha",
    "evaluation mode; the same input always gives the same logits, whatever else is in its batch",
)


@dataclass(frozen=True)
class CertifyConfig:
    """The parameters of a certificate, all explicit."""

    kind: Literal["lipschitz", "smoothing"]
    name: str  # of its files below RUN/certificates
    parameters: dict[str, float]
    radii: tuple[float, ...]

    @classmethod
    def resolve(
        cls,
        method: Literal["lipschitz", "smoothing"],
        *,
        sigma: float | None,
        samples: int | None,
        alpha: float | None,
        seed: int | None,
        radii: Sequence[float],
    ) -> "CertifyConfig":
        """Give what was not given its default.

        Raises:
            UserError: a parameter is out of range, or of smoothing alone.
        """
        if bad := [radius for radius in radii if not 0 <= radius < math.inf]:
            raise UserError(f"--radius {bad[0]:g} is no radius: give a number from 0")
        distinct(tuple(radii))
        TRIES.require("--samples", samples)
        SEEDS.require("--seed", seed)
        given = {"--sigma": sigma, "--samples": samples, "--alpha": alpha, "--seed": seed}
        curve = tuple(sorted({0.0, *radii})) if radii else RADII
        if method == "lipschitz":
            if lone := [name for name, value in given.items() if value is not None]:
                raise UserError(f"{lone[0]} belongs to --method smoothing; a Lipschitz bound has no such parameter")
            return cls(method, method, {}, curve)
        parameters = {
            "sigma": 0.25 if sigma is None else sigma,
            "n0": CHOICE,
            "n": 1000 if samples is None else samples,
            "alpha": 0.001 if alpha is None else alpha,
            "seed": 0 if seed is None else seed,
        }
        conditioning.check_smoothing(parameters["sigma"], CHOICE, int(parameters["n"]), parameters["alpha"])
        suffix = "" if samples is None else f"-{samples}"
        return cls(method, f"smoothing-{parameters['sigma']!r}{suffix}", parameters, curve)


def subject_to_certify(run_dir: Path, examples: int | None, location: Location, *, trust_code: bool = False) -> Subject:
    """Return a run's network with the first of its test images; `trust_code` as in `training.load_network`.

    Raises:
        UserError: it is not a complete run, its weights are not those of its record, or the images are others or too few.
    """
    job = moved(stored_job(run_dir, []), location)
    subject = trained(run_dir, job.config.data, trust_code=trust_code)
    if examples is not None and not 1 <= examples <= len(subject.y):
        raise UserError(f"{run_dir} has {len(subject.y)} test images: {examples} cannot be taken from them")
    return subject.first(examples)


def certify_run(run_dir: Path, subject: Subject, config: CertifyConfig, report: Report) -> CertificateRecord:
    """Certify a run and store the certificate; one that is there for the same weights, images and parameters is kept."""
    place = records.RunFiles(run_dir).certificate(config.name)
    files = [place.with_suffix(".parquet")]
    behaviour = evaluation.behaviour(subject.model, subject.first(OBSERVED).x)
    hashes = {
        "weights": provenance.digest_tensors(subject.model.state_dict()),
        "data": provenance.digest_tensors({"x": subject.x, "y": subject.y}),
    }
    if place.is_file() and (stored := _sound(place)) is not None:
        same = (stored.hashes["weights"], stored.parameters) == (hashes["weights"], config.parameters)
        same &= not records.unlike(stored.behaviour, behaviour)
        table = records.read_frame(place.with_suffix(".parquet"), records.CERTIFICATE)
        if same and (stored.hashes["data"] == hashes["data"] or _beginning(table, subject)):
            report(Event(run_dir.name, config.name, 1, 1, f"{config.name} is there already"))
            curve = _curve(table.iloc[: len(subject.y)], config.radii)
            again = stored.model_copy(update={"curve": curve, "hashes": hashes})
            return records.write_sealed(place, again, files) if len(table) == len(subject.y) else again
    started = time.perf_counter()
    bound = conditioning.lipschitz(subject.model, subject.images.shape[1:]) if config.kind == "lipschitz" else None
    table = _table(run_dir.name, subject, config, bound, report)
    record = CertificateRecord(
        name=config.name,
        kind=config.kind,
        created=records.now(),
        versions=provenance.versions(),
        machine=provenance.machine(next(subject.model.parameters()).device),
        hashes=hashes,
        behaviour=behaviour,
        version=VERSION,
        parameters=config.parameters,
        assumptions=list(SMOOTHING if bound is None else bound.assumptions),
        reasons=[] if bound is None else list(bound.reasons),
        bound=None if bound is None else _finite(bound.bound),
        layers=[]
        if bound is None
        else [
            LayerBound.model_validate(row | {key: _finite(row[key]) for key in ("constant", "bound")})
            for row in bound.layers.to_dict("records")
        ],
        interval="Clopper–Pearson 95 %",
        curve=_curve(table, config.radii),
        seconds=time.perf_counter() - started,
    )
    records.write_frame(place.with_suffix(".parquet"), table)
    record = records.write_sealed(place, record, files)  # it comes last: without its seal the table counts for nothing
    first = next((point for point in record.curve if point.radius > 0), record.curve[0])
    note = f"{config.name}: {first.value:.1%} of {first.total} examples certified at radius {first.radius:g}"
    report(Event(run_dir.name, config.name, 1, 1, note))
    return record


def certificate_faults(name: str, certificate: records.Certificate, subject: Subject) -> Iterator[str]:
    """Yield in words what of a certificate is not proved again: its figures from its table, and that from the network.

    What smoothing drew is not drawn again: of it labels and figures alone are held against the examples and the table.

    Args:
        subject: the run's network with all its test images.
    """
    record, table = certificate.record, certificate.table
    if record.version != VERSION:
        yield f"{name}: it was made by version {record.version} of the bound, and this is {VERSION}: certify again"
        return
    if not 1 <= len(table) <= len(subject.y) or table["example"].tolist() != list(range(len(table))):
        yield f"{name}: its table is not of the first of {len(subject.y)} examples"
        return
    part = subject.first(len(table))
    if provenance.digest_tensors(part.model.state_dict()) != record.hashes.get("weights"):
        yield f"{name}: it is of another network"
        return
    if table["label"].tolist() != part.y.tolist():
        yield f"{name}: a label is not that of its example"
    if record.curve != _curve(table, [point.radius for point in record.curve]):
        yield f"{name}: its certified accuracies are not those of its table"
    if record.kind == "smoothing" and len(table):
        most = conditioning.largest_radius(record.parameters["sigma"], int(record.parameters["n"]), record.parameters["alpha"])
        if float(table["radius"].max()) > most * (1 + SAME):
            yield f"{name}: a radius is larger than {most:.4g}, the most that so many samples can prove"
    if record.kind == "lipschitz":
        bound = conditioning.lipschitz(part.model, part.images.shape[1:])
        if not math.isclose(bound.bound, math.inf if record.bound is None else record.bound, rel_tol=SAME):
            yield f"{name}: its bound is not the network's, {bound.bound:.6g}"
        proved = conditioning.certify(part.model, part.x, part.y, bound=bound)
        for column in ("prediction", "margin", "radius"):
            pairs = zip(table[column], proved[column], strict=True)
            if bad := [number for number, pair in enumerate(pairs) if not math.isclose(*pair, rel_tol=SAME, abs_tol=SAME)]:
                yield f"{name}: the {column} of example {bad[0]} is not that which the network has"


def _sound(place: Path) -> CertificateRecord | None:
    """Return a stored certificate, or None if a file of it is lost or damaged, or it is of another version: it is made again."""
    try:
        stored = records.read_record(place, CertificateRecord)
    except UserError:
        return None
    return None if stored.version != VERSION or records.broken_seals(place, stored) else stored


def _beginning(table: "pd.DataFrame", subject: Subject) -> bool:
    """Return whether a certificate is of more of a run's test images; that they are the run's own, `trained` has checked."""
    labels = subject.y.tolist()
    return len(table) > len(labels) and table["label"].tolist()[: len(labels)] == labels


def _table(job: str, subject: Subject, config: CertifyConfig, bound: Lipschitz | None, report: Report) -> "pd.DataFrame":
    if bound is not None:
        return conditioning.certify(subject.model, subject.x, subject.y, bound=bound)
    parameters = config.parameters
    return conditioning.smooth_certify(
        subject.model,
        subject.x,
        subject.y,
        sigma=parameters["sigma"],
        n0=int(parameters["n0"]),
        n=int(parameters["n"]),
        alpha=parameters["alpha"],
        seed=int(parameters["seed"]),
        progress=lambda done: report(Event(job, config.name, done, len(subject.y))),
    )


def _curve(table: "pd.DataFrame", radii: Sequence[float]) -> list[CurvePoint]:
    return [CurvePoint.model_validate(row) for row in conditioning.certified_curve(table, radii).to_dict("records")]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
