"""The chart on top of a report carries its main statement: robust accuracy against size, or against the budget."""

import math
from dataclasses import replace
from typing import Any

import altair as alt
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.comparing.pareto import Fronts, Point
from robust_lowrank.reporting.comparing.spectra import conditioning
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.labels import Box, place_labels
from robust_lowrank.reporting.sections import accuracy
from robust_lowrank.reporting.sections.join import study

WIDTH, HEIGHT = 640, 340  # of the drawing, in pixels, by which labels are placed
MARGIN = 34  # pixels between the outermost points and the edge
BEADS = 24  # boxes that stand for a line, which labels should not cover
LOW_TO_HIGH = ["#1b9e8f", "#e0a72e", "#c8324b"]  # of condition numbers: legible on light and on dark pages


def hero(evidence: Evidence) -> Figure | None:
    """Return the chart that carries a report's main statement; None where nothing was attacked."""
    if not evidence.evaluations:
        return None
    evaluation = evidence.evaluations[0]
    if (joined := study(evidence)) and joined.figure:
        return replace(joined.figure, name=f"study-{evaluation.slug}", panels=joined.figure.panels[:1] + joined.figure.panels[-1:])
    points = Fronts(evaluation).sizes
    return _against_size(evaluation, points) if points else accuracy.robustness(evaluation)


def _against_size(evaluation: Evaluation, points: list[Point]) -> Figure:
    names = evaluation.series
    conds = {name: _condition(evaluation, name) for name in names}
    known = [cond for cond in conds.values() if math.isfinite(cond)]
    dense = next((entry.series for entry in evaluation.entries if entry.run.record.method == "dense"), None)
    coloured = "" if not known else " Colour: the largest condition number of a compressed layer, of any layer where none is."
    led = "" if dense is None else f" Lines lead from {dense}, and thin out."
    spans = "the span of the seeds' intervals around their mean" if evaluation.repeated else f"{evaluation.interval} intervals"
    return Figure(
        name=f"robustness-size-{evaluation.slug}",
        title="Robust accuracy against size",
        description=f"Worst-case accuracy at eps {numbers.budget(evaluation.headline_eps)} against the parameters stored for "
        f"inference, a point each for {numbers.listing(names)}" + (", coloured by condition number." if known else "."),
        caption=f"Worst-case accuracy at {evaluation.threat}, n = {numbers.count(evaluation.examples)}. "
        f"Bars: {spans}.{coloured}{led}",
        series=tuple(names),
        panels=(Panel(_chart(names, points, conds, dense)),),
        height=HEIGHT,
        wide=True,
    )


def _chart(names: list[str], points: list[Point], conds: dict[str, float], dense: str | None) -> alt.LayerChart:
    frame = pd.DataFrame(
        {
            "series": point.series,
            "size": point.cost,
            "value": point.robust.value,
            "low": point.robust.low,
            "high": point.robust.high,
        }
        for point in points
    )
    frame["cond"] = [conds[name] if math.isfinite(conds[name]) else None for name in frame["series"]]
    x = alt.X(
        "size:Q",
        title="Parameters at inference",
        scale=_scale(frame["size"], WIDTH),
        axis=alt.Axis(format="~s", tickCount=6, grid=False, labelOverlap=True),
    )
    accuracies = pd.concat([frame["low"], frame["high"]])
    y = alt.Y("value:Q", title="Robust accuracy", scale=_scale(accuracies, HEIGHT), axis=alt.Axis(format=".0%", tickCount=6))
    base = alt.Chart(frame).encode(
        x=x,
        tooltip=[
            *encodings.tooltips(series="Method"),
            *encodings.accuracy_tooltips("Robust accuracy"),
            *encodings.tooltips(",.0f", size="Parameters"),
            *encodings.tooltips(".4~g", cond="Condition number"),
        ],
    )
    layers: list[Any] = []
    start = frame[frame["series"] == dense]
    if len(start):
        layers += [_arrow(start.iloc[0], end, x, y) for _, end in frame[frame["series"] != dense].iterrows()]
    layers += [
        base.mark_rule(strokeWidth=1.5, opacity=0.4).encode(y=alt.Y("low:Q", title="Robust accuracy"), y2="high:Q"),
        base.mark_point(filled=True, size=170, opacity=1).encode(
            y=y, shape=encodings.shape(names).legend(None), color=_color(frame, names)
        ),
    ]
    across = _pixels(frame["size"], WIDTH)
    down, top, bottom = (_pixels(frame[key], HEIGHT, accuracies) for key in ("value", "high", "low"))
    bars = [(left - 3, high, left + 3, low) for left, high, low in zip(across, top, bottom, strict=True)]
    if len(start):
        begin = across[start.index[0]], down[start.index[0]]
        bars += [_bead(begin, end, step / BEADS) for end in zip(across, down, strict=True) for step in range(BEADS)]
    placed = place_labels(list(zip(across, down, strict=True)), list(frame["series"]), WIDTH, bars)
    for row, place in zip(frame.to_dict("records"), placed, strict=True):
        text = alt.Chart(pd.DataFrame([row])).mark_text(align=place.align, dx=place.dx, dy=place.dy, baseline="middle", fontSize=12)  # pyright: ignore[reportArgumentType]
        layers.append(text.encode(x=x, y=y, text="series:N"))
    return alt.LayerChart(layer=layers)


def _bead(begin: tuple[float, float], end: tuple[float, float], along: float) -> Box:
    """Return a small box on the way from one point to another."""
    x, y = (one + along * (other - one) for one, other in zip(begin, end, strict=True))
    return x - 2, y - 2, x + 2, y + 2


def _arrow(start: pd.Series, end: pd.Series, x: alt.X, y: alt.Y) -> alt.Chart:
    ends = pd.DataFrame(
        [{**point[["size", "value"]].to_dict(), "series": end["series"], "width": w} for point, w in ((start, 5.0), (end, 0.6))]
    )
    width = alt.Size("width:Q", legend=None, scale=alt.Scale(domain=[0, 5], range=[0, 5]))
    return alt.Chart(ends).mark_trail(color="#8b94a1", opacity=0.35).encode(x=x, y=y, size=width)


def _color(frame: pd.DataFrame, names: list[str]) -> Any:
    known = frame["cond"].dropna()
    if known.empty:
        return encodings.color(names)
    domain = [1.0, max(2.0, float(known.max()))]
    scale = alt.Scale(type="log", domain=domain, range=LOW_TO_HIGH, interpolate="rgb")
    legend = alt.Legend(
        title="Condition number",
        orient="top",
        format=".4~g",
        gradientLength=160,
        gradientThickness=9,
        tickCount=4,
        offset=8,
    )
    return alt.condition("isValid(datum.cond)", alt.Color("cond:Q", scale=scale, legend=legend), alt.value("#8b94a1"))


def _span(values: pd.Series) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scale(values: pd.Series, pixels: int) -> alt.Scale:
    low, high = _span(values)
    beyond = MARGIN * (high - low) / (pixels - 2 * MARGIN)
    return alt.Scale(domain=[low - beyond, high + beyond], nice=False, zero=False)


def _pixels(values: pd.Series, pixels: int, spanned: pd.Series | None = None) -> list[float]:
    """Return where values lie in a drawing: from the left, or from above where they share an axis with others."""
    low, high = _span(values if spanned is None else spanned)
    along = [MARGIN + (pixels - 2 * MARGIN) * (value - low) / (high - low) for value in values]
    return along if spanned is None else [pixels - each for each in along]


def _condition(evaluation: Evaluation, series: str) -> float:
    """Return the largest condition number of a compressed layer of a series' runs, or of any layer; NaN where none is known."""
    measured = [conditioning(entry) for entry in evaluation.entries if entry.series == series]
    known = [each.factored_worst if each.factored_layers else each.worst for each in measured if each is not None]
    return max(known, default=math.nan)
