"""The section on layers has the tables of the condition-number report."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats.tables import Cell, Table, count_cell, numeric, quantity_cell, words
from robust_lowrank.reporting.sections.section import Section


@dataclass(frozen=True)
class Layers(Section):
    """The layers of all runs after training."""

    entries: tuple[Entry, ...]
    report = "condition"
    place = 10
    slug = "layers"
    heading = "Layers"
    template = "tables"
    notes: tuple[str, ...] = (spectra.MATRIX_NOTE, spectra.CERTIFICATE_NOTE)

    @classmethod
    def find(cls, evidence: Evidence) -> list[Self]:
        """Return the layers of the runs whose spectra were recorded."""
        return [cls(evidence.measured)] if evidence.measured else []

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The totals of all runs, and the layers of each."""
        return (_totals(self.entries), *(_layers(entry) for entry in self.entries))


def _layers(entry: Entry) -> Table:
    """Return every layer of a run after training, worst first."""
    kept = entry.run.record.kept_dense
    epoch = entry.run.spectra["epoch"].max()
    when = f"after epoch {epoch}" if epoch else spectra.moment([entry])
    return Table(
        name=f"layers of {entry.name}",
        caption=f"{entry.name}: layers {when}, worst condition number first.",
        columns=(
            *words("Layer", "Kind"),
            *numeric("Matrix", "Rank", "Condition number", "σ max", "σ min", "Stable rank", "Orthonormality defect", "Parameters"),
        ),
        rows=tuple(_row(layer, kept.get(layer["layer"], "")) for layer in spectra.table([entry]).to_dict("records")),
        series=entry.series,
    )


def _totals(entries: Sequence[Entry]) -> Table:
    """Return the largest condition number and the product, a row a run."""
    return Table(
        name="totals",
        caption=f"{spectra.moment(entries).capitalize()}, over all layers with a weight matrix and over the compressed ones.",
        columns=(
            *words("Run"),
            *numeric("All", "Compressed", group="Largest condition number"),
            *numeric("All", "Compressed", group="Product (certificate quantity)"),
            *numeric("All", "Compressed", group="Layers"),
        ),
        rows=tuple(
            (
                Cell(entry.name, series=entry.series),
                quantity_cell(measured.worst, measured.worst_layer),
                *map(quantity_cell, (measured.factored_worst, measured.product, measured.factored_product)),
                *map(count_cell, (measured.layers, measured.factored_layers)),
            )
            for entry in entries
            if (measured := spectra.conditioning(entry))
        ),
    )


def _row(layer: dict[Hashable, Any], reason: str) -> tuple[Cell, ...]:
    defect, params, dense = (layer[field] for field in ("orthonormality", "params", "params_dense"))
    return (
        Cell(layer["layer"]),
        Cell(layer["kind"], "compressed" if layer["factored"] else f"dense{f': {reason}' if reason else ''}"),
        Cell(f"{layer['rows']} × {layer['columns']}", value=layer["rows"] * layer["columns"]),
        count_cell(layer["rank"]),
        *(quantity_cell(layer[field]) for field in ("cond", "sigma_max", "sigma_min", "stable_rank")),
        Cell("–" if math.isnan(defect) else f"{defect:.1e}", value=defect),
        count_cell(params, f"{numbers.percent(params / dense)} % of dense" if params != dense else ""),
    )
