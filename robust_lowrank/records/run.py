"""A run directory as a whole."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robust_lowrank.errors import UserError
from robust_lowrank.records.documents import CertificateRecord, ResultRecord, RunRecord
from robust_lowrank.records.files import read_frame, read_record
from robust_lowrank.records.tables import CERTIFICATE, METRICS, OPERATORS, SPECTRA, TRANSFER, VERDICTS

if TYPE_CHECKING:
    import pandas as pd

SPECTRA_FILE = "spectra.parquet"
TRANSFER_FILE, CLEAN_FILE, ADVERSARIAL_FILE = "transfer.parquet", "clean.safetensors", "adversarial.safetensors"


@dataclass(frozen=True)
class Certificate:
    """One certificate as read from a run directory."""

    record: CertificateRecord
    table: "pd.DataFrame"


@dataclass(frozen=True)
class Result:
    """One evaluation as read from a run directory."""

    record: ResultRecord
    verdicts: "pd.DataFrame"
    transfer: "pd.DataFrame | None" = None
    path: Path | None = None  # its directory


@dataclass(frozen=True)
class Run:
    """A run directory as read: its record, histories and evaluations by suite name, certificates by theirs."""

    path: Path
    record: RunRecord
    metrics: "pd.DataFrame"
    spectra: "pd.DataFrame"
    results: dict[str, Result]
    operators: "pd.DataFrame | None" = None
    certificates: dict[str, Certificate] = field(default_factory=dict)


def read_run(path: Path) -> Run:
    """Read a run directory, results included.

    Raises:
        UserError: `path` is not a run directory, or a file in it cannot be read.
    """
    if not (path / "run.json").is_file():
        raise UserError(f"{path} is not a run directory: it has no run.json. Make one with 'rlr-eval train --out {path}'")
    results = {
        directory.name: Result(
            record=read_record(directory / "result.json", ResultRecord),
            verdicts=read_frame(directory / "verdicts.parquet", VERDICTS),
            transfer=read_frame(directory / TRANSFER_FILE, TRANSFER) if (directory / TRANSFER_FILE).is_file() else None,
            path=directory,
        )
        for directory in sorted((path / "results").glob("*"))
        if (directory / "result.json").is_file()
    }
    certificates = {
        file.stem: Certificate(
            record=read_record(file, CertificateRecord), table=read_frame(file.with_suffix(".parquet"), CERTIFICATE)
        )
        for file in sorted((path / "certificates").glob("*.json"))
    }
    operators = path / "operators.parquet"
    return Run(
        path=path,
        record=read_record(path / "run.json", RunRecord),
        metrics=read_frame(path / "metrics.parquet", METRICS),
        spectra=read_frame(path / SPECTRA_FILE, SPECTRA),
        results=results,
        operators=read_frame(operators, OPERATORS) if operators.is_file() else None,
        certificates=certificates,
    )
