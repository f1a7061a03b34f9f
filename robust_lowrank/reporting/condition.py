"""The condition-number report shows how networks' layers are conditioned, and how they came to be so."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.errors import UserError
from robust_lowrank.records import Run, RunFiles
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evidence import Evidence, gather
from robust_lowrank.reporting.formats.statements import Statement, Summary
from robust_lowrank.reporting.output.files import write_report
from robust_lowrank.reporting.output.frames import layers_frame
from robust_lowrank.reporting.output.provenance import provenance
from robust_lowrank.reporting.sections import operator_norms
from robust_lowrank.reporting.sections.registry import CONDITION, find_sections

_ILL_CONDITIONED = 1e4
_NOT_ORTHONORMAL = 1e-4


def condition_report(runs: Sequence[Run], out: Path, *, title: str, command: str) -> Path:
    """Write `condition.html` with its other formats and `figures/` under `out` and return the path of the page.

    Every layer of every run: condition number, singular values, ranks, worst layers first, their history over training, and
    their norms as operators where these are recorded.

    Args:
        runs: as read by `records.read_run`.
        out: directory; made if it is missing.
        title: heading of the report.
        command: what makes this report again; shown in it.

    Raises:
        UserError: there are no runs, or none of them has recorded spectra.
    """
    evidence = Evidence(gather(runs).measured)
    if not evidence.entries:
        raise UserError(f"{RunFiles(runs[0].path).spectra} is empty: its network shows no layers, or was not trained for an epoch")
    return write_report(
        out,
        "condition",
        title=title,
        subtitle=f"Conditioning of {numbers.times(len(evidence.entries), 'network')}",
        summary=_summarise(evidence.entries),
        sections=find_sections(CONDITION, evidence),
        provenance=provenance(evidence.entries, command),
        methods=evidence.methods,
        table_name="condition",
        table=layers_frame(evidence.entries),
    )


def _summarise(entries: Sequence[Entry]) -> Summary:
    """Say what the spectra show: the worst layer first, then each run's course and its warnings."""
    worst = spectra.table(entries).iloc[0]
    of_run = f" of {worst['run']}" if len(entries) > 1 else ""
    return Summary(
        headline=f"The worst-conditioned layer is {worst['layer']}{of_run}: condition number {numbers.cond(worst['cond'])}.",
        evidence=_meaning(worst),
        statements=tuple(statement for entry in entries for statement in _run(entry)),
    )


def _meaning(worst: pd.Series) -> str:
    rounding = max(worst["rows"], worst["columns"]) * float(np.finfo(np.float32).eps) * worst["sigma_max"]
    if lost := sum(sigma <= rounding for sigma in worst["singular_values"]):
        directions = "one" if lost == 1 else str(lost)
        return (
            f"It is numerically rank-deficient: of {worst['rank']} directions it maps {directions} to nothing, or to no more than "
            "what rounding in float32 leaves (max(n, m) · eps · its largest singular value)."
        )
    return (
        f"It stretches one direction by {numbers.quantity(worst['sigma_max'])} and another by only "
        f"{numbers.quantity(worst['sigma_min'])}; a perfectly conditioned layer stretches all {worst['rank']} alike."
    )


def _run(entry: Entry) -> list[Statement]:
    layers = spectra.final(entry)
    conditioning = spectra.conditioning(entry)
    if conditioning is None:
        return [Statement("note", f"{entry.name}: no spectra were recorded.")]
    worst = f"{numbers.cond(conditioning.worst)} ({conditioning.worst_layer})"
    text = f"{entry.name}: largest condition number {worst}, {_course(entry)}"
    if conditioning.factored_layers and conditioning.factored_layers < conditioning.layers:
        text += f"; {numbers.quantity(conditioning.factored_worst)} over its {conditioning.factored_layers} compressed layers"
    statements = [Statement("note", text + ".")]
    ill = layers.loc[layers["cond"] > _ILL_CONDITIONED, "layer"]
    if len(ill):
        text = f"{entry.name}: condition number above {numbers.quantity(_ILL_CONDITIONED)} in {numbers.listing(list(ill))}."
        statements.append(Statement("warning", text))
    loose = layers.loc[layers["orthonormality"] > _NOT_ORTHONORMAL]
    if len(loose):
        defect = numbers.quantity(float(loose["orthonormality"].max()))
        text = (
            f"{entry.name}: the bases of {numbers.listing(list(loose['layer']))} are not orthonormal (defect up to {defect}), as "
            "after averaging, casting or editing factors; the singular values are those of the merged weight."
        )
        statements.append(Statement("warning", text))
    return statements + operator_norms.statements(entry)


def _course(entry: Entry) -> str:
    worst = entry.run.spectra.groupby("epoch")["cond"].max()
    first, last = float(worst.iloc[0]), float(worst.iloc[-1])
    if len(worst) == 1:
        return f"epoch {worst.index[0]} alone recorded" if entry.run.record.epochs_done else spectra.moment([entry])
    epochs = f"epoch {worst.index[0]} to {worst.index[-1]}"
    peak = "" if worst.max() <= 1.05 * max(first, last) else f", {numbers.quantity(worst.max())} after epoch {worst.idxmax()}"
    if math.isclose(first, last, rel_tol=0.05):
        return f"{'steady' if not peak else 'the same'} from {epochs}{peak}"
    return f"{'up' if last > first else 'down'} from {numbers.quantity(first)} ({epochs}{peak})"
