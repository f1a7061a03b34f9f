"""The condition-number report: how well the layers of networks are conditioned, and how they came to be so."""

from collections.abc import Sequence
from pathlib import Path

from robust_lowrank.errors import UserError
from robust_lowrank.records import Run
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.condition_summary import summarise
from robust_lowrank.reporting.output import page
from robust_lowrank.reporting.output.files import write_report
from robust_lowrank.reporting.output.frames import layers_frame
from robust_lowrank.reporting.output.provenance import provenance
from robust_lowrank.reporting.sections import conditioning, operator_norms
from robust_lowrank.reporting.sections import layers as layer_tables

_PREFIX = "condition-"


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
    entries = tuple(entry for entry in arrange(runs) if len(entry.run.spectra))
    if not entries:
        raise UserError(f"{runs[0].path}/spectra.parquet is empty: its network shows no layers, or was not trained for an epoch")
    layers = spectra.worst_layers(entries, limit=len(spectra.table(entries)))
    figures = [
        conditioning.by_layer(entries, prefix=_PREFIX),
        conditioning.over_training(entries, layers, prefix=_PREFIX),
        conditioning.spectra_by_layer(entries, layers, prefix=_PREFIX),
        conditioning.ranks(entries, layers, prefix=_PREFIX),
        conditioning.product_over_training(entries, prefix=_PREFIX),
        operator_norms.figure(entries, prefix=_PREFIX),
    ]
    drawings = page.draw(figures, entries)
    context = {
        "title": title,
        "subtitle": f"Conditioning of {len(entries)} network" + ("s" if len(entries) > 1 else ""),
        "summary": summarise(entries),
        "totals": layer_tables.totals(entries),
        "tables": [layer_tables.layers(entry) for entry in entries],
        "notes": (spectra.MATRIX_NOTE, spectra.CERTIFICATE_NOTE),
        "operators": operator_norms.tables(entries),
        "operators_note": operator_norms.NOTE,
        "provenance": provenance(entries, command),
    }
    return write_report(
        out,
        "condition",
        entries=entries,
        drawings=list(drawings.values()),
        table_name="condition",
        table=layers_frame(entries),
        context=context,
    )
