"""Run directories are read whole."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robust_lowrank.errors import UserError
from robust_lowrank.records.documents import CertificateRecord, ResultRecord, RunRecord
from robust_lowrank.records.frames import read_frame
from robust_lowrank.records.layout import RunFiles, require_plain
from robust_lowrank.records.parsing import read_record
from robust_lowrank.records.tables import CERTIFICATE, METRICS, OPERATORS, REPLAYED, ROUNDING, SPECTRA, TRANSFER, VERDICTS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Certificate:
    """One certificate as read from a run directory."""

    record: CertificateRecord
    table: "pd.DataFrame"


@dataclass(frozen=True)
class Result:
    """One evaluation as read from a run directory."""

    record: ResultRecord
    verdicts: "pd.DataFrame"  # VERDICTS, compact as `read_frame` makes it
    transfer: "pd.DataFrame | None" = None
    path: Path | None = None  # its directory
    replayed: "pd.DataFrame | None" = None  # of a form
    rounding: "pd.DataFrame | None" = None


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


def read_run(path: Path, *, results: bool = True) -> Run:
    """Read a run directory.

    Args:
        results: False leaves out evaluations and certificates, of which files may be lost.

    Raises:
        UserError: `path` is not a run directory, a file in it cannot be read, or a link in it leads out of it.
    """
    files = RunFiles(path)
    if not files.record.is_file():
        remedy = f"Make one with: rlr-eval train --out {shlex.quote(str(path))}"
        raise UserError(f"{path} is not a run directory: it has no {files.record.name}. {remedy}")
    require_plain(path)
    directories = [files.result(directory.name) for directory in sorted(files.results.glob("*")) if results]
    evaluations = {
        result.root.name: Result(
            record=read_record(result.record, ResultRecord),
            verdicts=read_frame(result.verdicts, VERDICTS, compact=True),
            transfer=read_frame(result.transfer, TRANSFER) if result.transfer.is_file() else None,
            rounding=read_frame(result.rounding, ROUNDING) if result.rounding.is_file() else None,
            path=result.root,
            replayed=read_frame(result.replayed, REPLAYED) if result.replayed.is_file() else None,
        )
        for result in directories
        if result.record.is_file()
    }
    certificates = {
        file.stem: Certificate(read_record(file, CertificateRecord), read_frame(file.with_suffix(".parquet"), CERTIFICATE))
        for file in sorted(files.certificates.glob("*.json"))
        if results
    }
    return Run(
        path=path,
        record=read_record(files.record, RunRecord),
        metrics=read_frame(files.metrics, METRICS),
        spectra=read_frame(files.spectra, SPECTRA),
        results=evaluations,
        operators=read_frame(files.operators, OPERATORS) if files.operators.is_file() else None,
        certificates=certificates,
    )


def read_forms(run: Run) -> dict[str, Run]:
    """Read the deployed forms of a run, by their names.

    Raises:
        UserError: a file of one cannot be read.
    """
    files = RunFiles(run.path)
    forms = [files.form(directory.name) for directory in sorted(files.forms.glob("*"))]
    try:
        return {form.root.name: read_run(form.root) for form in forms if form.record.is_file()}
    except UserError as error:
        raise UserError(f"{error}\nAttack this form again with --form, or move it away") from error
