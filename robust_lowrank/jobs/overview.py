"""An overview of a run is what its records say at a glance; nothing is computed again, and no network is loaded."""

import shlex
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from robust_lowrank import records, training
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.subjects import FOREIGN
from robust_lowrank.records import CertificateRecord, ResultRecord, RunFiles, RunRecord

if TYPE_CHECKING:
    import pandas as pd

Origin = Literal["trained", "recorded", "elsewhere"]


class Overview(NamedTuple):
    """What is known of a run."""

    path: Path
    record: RunRecord
    origin: Origin  # by `train`, by a loop of one's own, or a network from elsewhere that was attacked
    layers: "pd.DataFrame"  # SPECTRA, of the last epoch
    history: "pd.DataFrame"  # METRICS, and what the loop has added
    results: dict[str, ResultRecord]
    certificates: dict[str, CertificateRecord]
    files: dict[str, int]  # sizes in bytes, by name; what lies in a directory counts for it
    faults: tuple[str, ...]  # what is not as it was written, or is missing
    next: tuple[str, ...]  # commands to try


def overview(run_dir: Path) -> Overview:
    """Read a run directory of any kind, complete or not, as far as it can be read.

    Example:
        >>> overview(Path("runs/condlr")).record.label  # doctest: +SKIP
        'CondLR τ=0.1'

    Raises:
        UserError: it is not a run directory, or its record is of another version.
    """
    files = RunFiles(run_dir)
    if not files.record.is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no {files.record.name}; name one that has")
    records.require_plain(run_dir)
    record = records.read_record(files.record, RunRecord)
    faults = list(records.broken_seals(files.record, record, files.beside)) if record.seal or record.status == "complete" else []
    spectra, history = (_table(*each, faults) for each in ((files.spectra, records.SPECTRA), (files.metrics, records.METRICS)))
    results = dict(_results(files, record, faults))
    certificates = dict(_certificates(files, record, faults))
    origin: Origin = "recorded" if training.is_recorded(record.config) else "elsewhere" if record.method == FOREIGN else "trained"
    return Overview(
        path=run_dir,
        record=record,
        origin=origin,
        layers=spectra[spectra["epoch"] == spectra["epoch"].max()].reset_index(drop=True),
        history=history.drop(columns="weights", errors="ignore").dropna(axis="columns", how="all"),
        results=results,
        certificates=certificates,
        files={path.name: _size(path) for path in sorted(run_dir.glob("[!.]*"))},
        faults=tuple(dict.fromkeys(faults)),
        next=tuple(_next(run_dir, record, origin, results, certificates)),
    )


def _table(path: Path, columns: Collection[str], faults: list[str]) -> "pd.DataFrame":
    """Return a table, empty if it is not there or cannot be read."""
    import pandas as pd

    try:
        return records.read_frame(path, columns)
    except UserError as error:
        faults.append(str(error))
        return pd.DataFrame(columns=pd.Index(columns))


def _results(files: RunFiles, run: RunRecord, faults: list[str]) -> Iterator[tuple[str, ResultRecord]]:
    for directory in sorted(path for path in files.results.glob("*") if path.is_dir()):
        result = files.result(directory.name)
        if not result.record.is_file() and not any(path.exists() for path in result.beside):
            continue  # units of an evaluation on its way
        try:
            record = records.read_record(result.record, ResultRecord)
        except UserError as error:
            faults.append(str(error))
            continue
        faults += records.broken_seals(result.record, record, result.beside)
        if record.hashes.get("weights") != run.hashes.get("weights"):
            faults.append(f"{directory} is of another network")
        yield directory.name, record


def _certificates(files: RunFiles, run: RunRecord, faults: list[str]) -> Iterator[tuple[str, CertificateRecord]]:
    for path in sorted(files.certificates.glob("*.json")):
        try:
            record = records.read_record(path, CertificateRecord)
        except UserError as error:
            faults.append(str(error))
            continue
        faults += records.broken_seals(path, record)
        if record.hashes.get("weights") != run.hashes.get("weights"):
            faults.append(f"{path} is of another network")
        yield path.stem, record


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file())


def _next(
    run_dir: Path,
    record: RunRecord,
    origin: Origin,
    results: dict[str, ResultRecord],
    certificates: dict[str, CertificateRecord],
) -> Iterator[str]:
    """Yield the commands that go on from what is there; what made it is not among them, as anybody may have written that."""
    run = shlex.quote(str(run_dir))
    if record.status == "complete" and origin != "elsewhere":
        if not results:
            yield f"rlr-eval attack {run} --suite quick --n 100"
        if not certificates:
            yield f"rlr-eval certify {run} --n 100"
        if results or certificates:
            yield f"rlr-eval verify {run}"
    if record.status == "complete" and results:
        yield f"rlr-eval report {run} --out reports/comparison"
    if record.parameters.dense:
        yield f"rlr-eval condition {run} --out reports/condition"
