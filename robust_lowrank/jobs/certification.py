"""Certificates of runs are computed and stored here."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robust_lowrank import conditioning, evaluation, provenance, records
from robust_lowrank.conditioning.lipschitz import Lipschitz
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.chain import stored_job, with_data
from robust_lowrank.jobs.events import Event, Report
from robust_lowrank.jobs.subjects import Subject, trained
from robust_lowrank.records import CertificateRecord, CurvePoint, LayerBound

if TYPE_CHECKING:
    import pandas as pd

RADII = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0)
VERSION = 2  # of the computation; raised where an older one has certified too much
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


def subject_to_certify(run_dir: Path, examples: int | None, data_dir: Path | None) -> Subject:
    """Return a run's network with the first of its test images.

    Raises:
        UserError: it is not a complete run, its weights are not those of its record, or the images are others or too few.
    """
    job = with_data(stored_job(run_dir, []), data_dir, download=False)
    subject = trained(run_dir, job.config.data)
    if examples is not None and not 1 <= examples <= len(subject.y):
        raise UserError(f"{run_dir} has {len(subject.y)} test images: {examples} cannot be taken from them")
    return subject.first(examples)


def certify_run(run_dir: Path, subject: Subject, config: CertifyConfig, report: Report) -> CertificateRecord:
    """Certify a run and store the certificate; one that is there for the same weights, images and parameters is kept."""
    place = records.RunFiles(run_dir).certificate(config.name)
    files = [place.with_suffix(".parquet")]
    behaviour = evaluation.behaviour(subject.model, subject.x)
    hashes = {
        "weights": provenance.digest_tensors(subject.model.state_dict()),
        "data": provenance.digest_tensors({"x": subject.x, "y": subject.y}),
    }
    if place.is_file():
        stored = records.read_record(place, CertificateRecord)
        table = records.read_frame(place.with_suffix(".parquet"), records.CERTIFICATE)
        same = (stored.hashes["weights"], stored.parameters) == (hashes["weights"], config.parameters)
        same &= stored.version == VERSION and not records.broken_seals(place, stored)
        same &= not records.unlike(stored.behaviour, behaviour)
        if same and (stored.hashes["data"] == hashes["data"] or _beginning(table, subject)):
            report(Event(run_dir.name, config.name, 1, 1, f"{config.name} is there already"))
            curve = _curve(table.iloc[: len(subject.y)], config.radii)
            again = stored.model_copy(update={"curve": curve, "hashes": hashes})
            return records.write_sealed(place, again, files) if len(table) == len(subject.y) else again
    started = time.perf_counter()
    bound = conditioning.lipschitz(subject.model, subject.x.shape[1:]) if config.kind == "lipschitz" else None
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
