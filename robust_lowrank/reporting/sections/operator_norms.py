"""Layers as operators on the images that reach them, beside their matrices; and what follows for the whole network."""

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from robust_lowrank.records import OPERATORS
from robust_lowrank.reporting.comparing.entries import Entry, series_names
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.statements import Statement
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, quantity_cell
from robust_lowrank.reporting.sections.conditioning import log_axis

NOTE = (
    "A convolution applies its matrix everywhere, and the windows overlap: as an operator on whole images it stretches more than "
    "the matrix does. The estimate is from below, by Lanczos on the layer with its stride and padding; the upper bound is proved. "
    "With the batch normalisation that follows folded in, it is what a bound of the network is made of."
)
MEASURED = ("operator_norm", "operator_bound", "folded_bound", "circular_cond")  # those of OPERATORS that a report's rows carry

_REASONS = 2  # that are told
_NOTEWORTHY = 1.05  # from how many times the matrix's norm on an operator's is told


def norms(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the recorded operator norms, a row a run and layer: series, run, and OPERATORS; empty where none are recorded."""
    frames = [_recorded(entry).assign(series=entry.series, run=entry.name) for entry in entries if entry.run.operators is not None]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*OPERATORS, "series", "run"])


def tables(entries: Sequence[Entry]) -> list[Table]:
    """Return a table a run with recorded convolutions, the largest bound first; of linear layers the matrix tells all."""
    return [_table(entry) for entry in entries if _convolutional(_recorded(entry))]


def figure(entries: Sequence[Entry], *, prefix: str = "") -> Figure | None:
    """Norm of each layer's matrix and operator, joined by a line, on a logarithmic scale; None without convolutions."""
    shown = [entry for entry in entries if _convolutional(_recorded(entry))]
    found = norms(shown)
    frame = found[(found["sigma_max"] > 0) & (found["operator_bound"] > 0)]
    if frame.empty:
        return None
    names = series_names(shown)
    layers = list(dict.fromkeys(frame["layer"]))
    ends = pd.concat([frame["sigma_max"], frame["operator_bound"]]).astype("float64")
    scale = alt.Scale(type="log", nice=False, domain=[ends.min() / 1.1, ends.max() * 1.1])
    base = alt.Chart(frame[["layer", "series", "run", "sigma_max", "operator_norm", "operator_bound"]]).encode(
        x=alt.X("operator_bound:Q", title="Norm (log scale)", scale=scale, axis=log_axis(ends)),
        y=alt.Y("layer:N", sort=layers, title=None, axis=alt.Axis(grid=True, bandPosition=0, labelLimit=140)),
        yOffset=alt.YOffset("series:N", scale=alt.Scale(domain=names)),
        color=alt.Color("series:N", title=None, scale=alt.Scale(domain=names)),
        tooltip=[
            alt.Tooltip("run:N", title="Run"),
            alt.Tooltip("layer:N", title="Layer"),
            alt.Tooltip("sigma_max:Q", title="Matrix", format=".4~g"),
            alt.Tooltip("operator_norm:Q", title="Operator, estimate", format=".4~g"),
            alt.Tooltip("operator_bound:Q", title="Operator, upper bound", format=".4~g"),
        ],
    )
    marks = (
        base.mark_rule(strokeWidth=1.5).encode(x2="sigma_max:Q"),
        base.mark_tick(thickness=2, size=9).encode(x="sigma_max:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            shape=alt.Shape("series:N", title=None, scale=alt.Scale(domain=names))
        ),
    )
    return Figure(
        name=f"{prefix}operator-norms",
        title="Norm of each layer: matrix and operator",
        description=f"Largest singular value of the matrix and upper bound of the operator norm of {numbers.listing(layers)}, "
        f"for {numbers.listing(names)}.",
        caption="Bar: the largest singular value of the matrix. Point: the proved upper bound of the layer's norm as an operator, "
        "without batch normalisation. Of a linear layer both are the same. Layers in the order in which an image reaches them.",
        series=tuple(names),
        panels=(Panel(alt.LayerChart(layer=list(marks))),),
        height=max(160, len(layers) * (9 * len(names) + 14)),
    )


def findings(entry: Entry) -> list[Statement]:
    """Say which layer the matrix tells least of, and what is proved of the whole network."""
    found = []
    frame = _recorded(entry)
    frame = frame[frame["sigma_max"] > 0]
    if len(frame):
        ratio = frame["operator_bound"] / frame["sigma_max"]
        most = frame.iloc[int(ratio.to_numpy(dtype=float).argmax())]
        if ratio.max() >= _NOTEWORTHY:
            found.append(
                Statement(
                    "note",
                    f"{entry.name}: as an operator on {most['height']} × {most['width']} images {most['layer']} stretches by up to "
                    f"{numbers.quantity(most['operator_bound'])}, {numbers.quantity(ratio.max())} times the largest singular value "
                    f"of its matrix ({numbers.quantity(most['sigma_max'])}).",
                )
            )
    return found + _proved(entry)


def _proved(entry: Entry) -> list[Statement]:
    found = []
    for certificate in entry.run.certificates.values():
        record = certificate.record
        if record.kind != "lipschitz" or record.hashes.get("weights") != entry.run.record.hashes.get("weights"):
            continue
        if record.bound is None:
            text = f"{entry.name}: no Lipschitz bound is known: {_shortened(record.reasons) or 'it is infinite'}."
        else:
            bound = numbers.quantity(record.bound)
            text = f"{entry.name}: an input moved by δ in L2 provably moves the logits by at most {bound} δ"
            beyond = [point for point in record.curve if point.radius > 0]
            if beyond:
                point = beyond[0]
                text += (
                    f"; {numbers.percent(point.value)} % of {numbers.count(point.total)} examples are certified at radius "
                    f"{numbers.budget(point.radius)}"
                )
            text += "."
        found.append(Statement("note", text))
    return found


def _shortened(reasons: Sequence[str]) -> str:
    more = len(reasons) - _REASONS
    return "; ".join(reasons[:_REASONS]) + (f"; and {more} more" if more > 0 else "")


def _recorded(entry: Entry) -> pd.DataFrame:
    frame = entry.run.operators
    return pd.DataFrame(columns=list(OPERATORS)) if frame is None else frame


def _convolutional(frame: pd.DataFrame) -> bool:
    return bool((frame["height"] * frame["width"] > 1).any())


def _table(entry: Entry) -> Table:
    rows = _recorded(entry).sort_values("folded_bound", ascending=False, kind="stable").to_dict("records")
    return Table(
        name=f"operators of {entry.name}",
        caption=f"{entry.name}: layers as operators, largest bound with batch normalisation first.",
        columns=(
            Column("Layer", numeric=False),
            Column("Images"),
            Column("Matrix: σ max"),
            Column("Estimate", "Operator norm"),
            Column("Upper bound", "Operator norm"),
            Column("With BatchNorm", "Operator norm"),
            Column("Condition number on a torus"),
        ),
        rows=tuple(
            (
                Cell(row["layer"], row["kind"]),
                _images(row["height"], row["width"]),
                quantity_cell(row["sigma_max"]),
                quantity_cell(row["operator_norm"]),
                quantity_cell(row["operator_bound"]),
                quantity_cell(row["folded_bound"]),
                quantity_cell(row["circular_cond"] if row["kind"] != "linear" else math.nan),
            )
            for row in rows
        ),
        series=entry.series,
    )


def _images(height: int, width: int) -> Cell:
    return Cell("–" if height == width == 1 else f"{height} × {width}", value=height * width)
