"""The section on operator norms shows layers as operators on images, beside their matrices, and bounds of the network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import altair as alt
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import Entry, series_names
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.statements import Statement
from robust_lowrank.reporting.formats.tables import Cell, Table, numeric, quantity_cell, words
from robust_lowrank.reporting.sections.section import Section

_NOTE = (
    "A convolution applies its matrix everywhere, and the windows overlap: as an operator on whole images it stretches more than "
    "the matrix does. The estimate is from below, by Lanczos on the layer with its stride and padding; the upper bound is proved. "
    "With the batch normalisation that follows folded in, it is what a bound of the network is made of."
)

_REASONS = 2  # that are told
_NOTEWORTHY = 1.05  # from how many times the matrix's norm on an operator's is told


@dataclass(frozen=True)
class OperatorNorms(Section):
    """The recorded layers of convolutional networks as operators."""

    entries: tuple[Entry, ...]
    report = "condition"
    place = 30
    slug = "operators"
    heading = "Layers as operators"
    template = "tables"
    notes: tuple[str, ...] = (_NOTE,)

    @classmethod
    def find(cls, evidence: Evidence) -> list[Self]:
        """Return the runs with recorded convolutions; of linear layers the matrix tells all."""
        entries = tuple(e for e in evidence.entries if (spectra.operators(e)[["height", "width"]] > 1).any(axis=None))
        return [cls(entries)] if entries else []

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """A table a run, the largest bound first."""
        return tuple(_table(entry) for entry in self.entries)

    @cached_property
    def figure(self) -> Figure | None:
        """Norm of each layer's matrix and operator, joined by a line, on a logarithmic scale."""
        norms = spectra.operator_norms(self.entries)
        frame = norms[(norms["sigma_max"] > 0) & (norms["operator_bound"] > 0)]
        if frame.empty:
            return None
        names = series_names(self.entries)
        layers = list(dict.fromkeys(frame["layer"]))
        ends = pd.concat([frame["sigma_max"], frame["operator_bound"]]).astype("float64")
        scale = alt.Scale(type="log", nice=False, domain=[ends.min() / 1.1, ends.max() * 1.1])
        base = alt.Chart(frame[["layer", "series", "run", "sigma_max", "operator_norm", "operator_bound"]]).encode(
            x=alt.X("operator_bound:Q", title="Norm (log scale)", scale=scale, axis=encodings.log_axis(ends)),
            y=alt.Y("layer:N", sort=layers, title=None, axis=alt.Axis(grid=True, bandPosition=0, labelLimit=140)),
            yOffset=encodings.offset(names),
            color=encodings.color(names),
            tooltip=[
                *encodings.tooltips(run="Run", layer="Layer"),
                *encodings.tooltips(".4~g", sigma_max="Matrix", operator_norm="Operator, estimate"),
                *encodings.tooltips(".4~g", operator_bound="Operator, upper bound"),
            ],
        )
        marks = (
            base.mark_rule(strokeWidth=1.5).encode(x2="sigma_max:Q"),
            base.mark_tick(thickness=2, size=9).encode(x="sigma_max:Q"),
            base.mark_point(filled=True, size=60, opacity=1).encode(shape=encodings.shape(names)),
        )
        return Figure(
            name="condition-operator-norms",
            title="Norm of each layer: matrix and operator",
            description=f"Largest singular value of the matrix and upper bound of the operator norm of {numbers.listing(layers)}, "
            f"for {numbers.listing(names)}.",
            caption="Bar: the largest singular value of the matrix. Point: the proved upper bound of the layer's norm as an "
            "operator, without batch normalisation. Of a linear layer both are the same. "
            "Layers in the order in which an image reaches them.",
            series=tuple(names),
            panels=(Panel(alt.LayerChart(layer=list(marks))),),
            height=max(160, len(layers) * (9 * len(names) + 14)),
        )


def statements(entry: Entry) -> list[Statement]:
    """Say which layer the matrix tells least of, and what is proved of the whole network."""
    frame = spectra.operators(entry)
    frame = frame[frame["sigma_max"] > 0]
    ratio = frame["operator_bound"] / frame["sigma_max"]
    if not (len(frame) and ratio.max() >= _NOTEWORTHY):
        return _lipschitz(entry)
    most = frame.iloc[int(ratio.to_numpy(dtype=float).argmax())]
    text = (
        f"{entry.name}: as an operator on {most['height']} × {most['width']} images {most['layer']} stretches by up to "
        f"{numbers.quantity(most['operator_bound'])}, {numbers.quantity(ratio.max())} times the largest singular value "
        f"of its matrix ({numbers.quantity(most['sigma_max'])})."
    )
    return [Statement("note", text), *_lipschitz(entry)]


def _lipschitz(entry: Entry) -> list[Statement]:
    texts = []
    for certificate in entry.run.certificates.values():
        record = certificate.record
        if record.kind != "lipschitz":
            continue
        if record.bound is None:
            texts.append(f"{entry.name}: no Lipschitz bound is known: {_shorten(record.reasons) or 'it is infinite'}.")
            continue
        text = f"{entry.name}: an input moved by δ in L2 provably moves the logits by at most {numbers.quantity(record.bound)} δ"
        if point := next((point for point in record.curve if point.radius > 0), None):
            share = f"{numbers.percent(point.value)} % of {numbers.count(point.total)} examples"
            text += f"; {share} are certified at radius {numbers.budget(point.radius)}"
        texts.append(f"{text}.")
    return [Statement("note", text) for text in texts]


def _shorten(reasons: Sequence[str]) -> str:
    more = len(reasons) - _REASONS
    return "; ".join(reasons[:_REASONS]) + (f"; and {more} more" if more > 0 else "")


def _table(entry: Entry) -> Table:
    rows = spectra.operators(entry).sort_values("folded_bound", ascending=False, kind="stable").to_dict("records")
    return Table(
        name=f"operators of {entry.name}",
        caption=f"{entry.name}: layers as operators, largest bound with batch normalisation first.",
        columns=(
            *words("Layer"),
            *numeric("Images", "Matrix: σ max"),
            *numeric("Estimate", "Upper bound", "With BatchNorm", group="Operator norm"),
            *numeric("Condition number on a torus"),
        ),
        rows=tuple(
            (
                Cell(row["layer"], row["kind"]),
                Cell(f"{row['height']} × {row['width']}" if (size := row["height"] * row["width"]) > 1 else "–", value=size),
                *(quantity_cell(row[field]) for field in ("sigma_max", "operator_norm", "operator_bound", "folded_bound")),
                quantity_cell(row["circular_cond"] if row["kind"] != "linear" else math.nan),
            )
            for row in rows
        ),
        series=entry.series,
    )
