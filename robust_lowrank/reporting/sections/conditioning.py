"""The section on conditioning charts condition numbers by layer and over training, spectra, ranks and the product."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import altair as alt
import numpy as np
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import CROWD, Entry, series_names
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats.encodings import color, log_axis, offset, shape, tooltips
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.sections.section import Section

_PANELS = 6  # layers drawn; the condition-number report has no limit
_PREFIX = "condition-"  # of that report's files
_TITLES = {"cond": "Condition number", "product": "Product", "rank": "Rank"}  # in tooltips
_POINTS = 200  # of a line over training
_FLOOR = 1e-6  # relative singular values below are drawn there: float32 knows nothing smaller


@dataclass(frozen=True)
class Conditioning(Section):
    """The conditioning of layers: those of the runs whose spectra were recorded, the worst layers of each."""

    entries: tuple[Entry, ...]
    layers: list[str]  # drawn in panels
    notes: tuple[str, ...] = ()
    report = "comparison"
    place = 80
    slug = "conditioning"
    heading = "Conditioning"
    template = "figures"
    leading = True

    @classmethod
    def find(cls, evidence: Evidence) -> Sequence[Self]:
        """Return the conditioning of the worst layers; without recorded spectra the section says so."""
        entries = evidence.measured
        if not entries:
            return [cls(entries, [])]
        layers = spectra.worst_layers(entries, _PANELS)
        total = len({layer for entry in entries for layer in spectra.final(entry)["layer"]})
        selection = (
            f"The panels show the {len(layers)} layers with the largest condition numbers of {total}; "
            "the condition-number report has them all."
        )
        notes = (spectra.MATRIX_NOTE, spectra.CERTIFICATE_NOTE, *((selection,) if total > len(layers) else ()))
        return [cls(entries, layers, notes)]

    @property
    def statement(self) -> str:
        """Say so where nothing was recorded."""
        return "" if self.entries else "No spectra were recorded for these runs."

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """By layer, and folded over training and the spectra."""
        drawn = self._draw("") if self.entries else ()
        return (*drawn[:1], *(replace(figure, folded=True) for figure in drawn[1:]))

    def _draw(self, prefix: str) -> tuple[Figure, ...]:
        drawn = [_by_layer(self.entries, prefix)]
        if len(self.entries) <= CROWD:
            drawn += [_over_training(self.entries, self.layers, prefix), _spectra_by_layer(self.entries, self.layers, prefix)]
        return tuple(figure for figure in drawn if figure)


@dataclass(frozen=True)
class FullConditioning(Conditioning):
    """The conditioning of every layer, with ranks and product."""

    report = "condition"
    place = 20

    @classmethod
    def find(cls, evidence: Evidence) -> Sequence[Self]:
        """Return the conditioning of every layer of the runs whose spectra were recorded."""
        entries = evidence.measured
        return [cls(entries, spectra.worst_layers(entries, len(spectra.table(entries))))] if entries else []

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """By layer, over training, the spectra, the ranks and the product over training."""
        more = _ranks(self.entries, self.layers), _product_over_training(self.entries)
        return (*self._draw(_PREFIX), *(figure for figure in more if figure))


def _by_layer(entries: Sequence[Entry], prefix: str) -> Figure | None:
    """Draw each layer's condition number after training, a point a run, on a log scale; None where all are infinite."""
    names = series_names(entries)
    frame = spectra.table(entries)
    finite = frame[np.isfinite(frame["cond"])]
    if finite.empty:
        return None
    missing = len(frame) - len(finite)
    order = list(dict.fromkeys(layer for entry in entries for layer in spectra.final(entry)["layer"]))
    chart = (
        alt.Chart(_plain(finite, "layer", "series", "run", "cond", "sigma_max", "sigma_min", "rank"))
        .mark_point(filled=True, size=70, opacity=1)
        .encode(
            x=alt.X("cond:Q", title="Condition number (log scale)", scale=alt.Scale(type="log"), axis=log_axis(finite["cond"])),
            y=alt.Y("layer:N", sort=order, title=None, axis=alt.Axis(grid=True, bandPosition=0, labelLimit=140)),
            yOffset=offset(names),
            color=color(names),
            shape=shape(names),
            tooltip=[
                *tooltips(run="Run", layer="Layer"),
                *tooltips(".4~g", cond="Condition number", sigma_max="σ max", sigma_min="σ min"),
                alt.Tooltip("rank:Q", title="Rank"),
            ],
        )
    )
    return Figure(
        name=f"{prefix}condition-by-layer",
        title="Condition number of each layer",
        description=f"Condition numbers {spectra.moment(entries)} of {numbers.listing(order)}, "
        f"a point each for {numbers.listing(names)}.",
        caption=f"{spectra.moment(entries).capitalize()}; 1 is perfect."
        + (f" Not drawn: {missing} infinite (a singular value of zero)." if missing else ""),
        series=tuple(names),
        panels=(Panel(chart),),
        height=max(160, len(order) * (9 * len(names) + 14)),
    )


def _over_training(entries: Sequence[Entry], layers: Sequence[str], prefix: str) -> Figure | None:
    """Draw each layer's condition number by epoch, a panel each; None where only one epoch was recorded."""
    frame = spectra.history(entries)
    shown = frame[np.isfinite(frame["cond"]) & frame["layer"].isin(layers)]
    if shown["epoch"].nunique() < 2:
        return None
    scale = alt.Scale(type="log", domain=[1, max(shown["cond"].max(), 1.5)])
    y = alt.Y("cond:Q", title="Condition number", scale=scale, axis=log_axis(shown["cond"]))
    names = series_names(entries)
    return Figure(
        name=f"{prefix}condition-over-training",
        title="Condition numbers over training",
        description=f"Condition number by epoch of {numbers.listing(list(layers))}, a panel each, for {numbers.listing(names)}.",
        caption="Epoch 0 is the network before training. Logarithmic, the same scale in every panel."
        + _seeds(entries)
        + _thinning(shown),
        series=tuple(names),
        panels=tuple(Panel(_epochs(shown[shown["layer"] == layer], "cond", y, names), layer) for layer in layers),
        height=170,
    )


def _product_over_training(entries: Sequence[Entry]) -> Figure | None:
    """Draw the product of the condition numbers by epoch; None where only one epoch was recorded."""
    frame = spectra.product_history(entries)
    frame = frame[np.isfinite(frame["product"])]
    if frame["epoch"].nunique() < 2:
        return None
    names = series_names(entries)
    y = alt.Y("product:Q", title="Product over the layers", scale=alt.Scale(type="log"), axis=log_axis(frame["product"]))
    return Figure(
        name=f"{_PREFIX}product-over-training",
        title="Product of the condition numbers over training (certificate quantity)",
        description=f"Product of all layers' condition numbers by epoch for {numbers.listing(names)}.",
        caption=spectra.CERTIFICATE_NOTE + _thinning(frame),
        series=tuple(names),
        panels=(Panel(_epochs(frame, "product", y, names)),),
        height=240,
    )


def _ranks(entries: Sequence[Entry], layers: Sequence[str]) -> Figure | None:
    """Draw each layer's rank by epoch, a panel each; None where no rank changes."""
    frame = spectra.history(entries)
    if (frame.groupby(["run", "layer"])["rank"].nunique() < 2).all():
        return None
    y = alt.Y("rank:Q", title="Rank", scale=alt.Scale(zero=True), axis=alt.Axis(tickMinStep=1, tickCount=4))
    names = series_names(entries)
    return Figure(
        name=f"{_PREFIX}rank-over-training",
        title="Ranks over training",
        description=f"Rank by epoch of {numbers.listing(list(layers))}, a panel each, for {numbers.listing(names)}.",
        caption="Number of singular values that a layer keeps; epoch 0 is the network before training."
        + _seeds(entries)
        + _thinning(frame),
        series=tuple(names),
        panels=tuple(Panel(_epochs(frame[frame["layer"] == layer], "rank", y, names), layer) for layer in layers),
        height=170,
    )


def _spectra_by_layer(entries: Sequence[Entry], layers: Sequence[str], prefix: str) -> Figure:
    """Draw each layer's singular values after training, relative to the largest, a panel each."""
    frame = spectra.values(entries)
    frame = frame.assign(relative=frame["relative"].clip(lower=_FLOOR))
    names = series_names(entries)
    shown = frame[frame["layer"].isin(layers)]
    scale = alt.Scale(type="log", domain=[min(shown["relative"].min(), 0.5), 1])
    y = alt.Y("relative:Q", title="σ / σ max", scale=scale, axis=log_axis(shown["relative"]))
    return Figure(
        name=f"{prefix}spectra",
        title="Spectra",
        description=f"Singular values relative to the largest of {numbers.listing(list(layers))}, a panel each, "
        f"for {numbers.listing(names)}.",
        caption=f"Singular values {spectra.moment(entries)}, divided by the layer's largest: "
        "a flat line is a well-conditioned layer; a line that ends early is a layer of lower rank. "
        "Logarithmic, the same scale in every panel." + _seeds(entries),
        series=tuple(names),
        panels=tuple(Panel(_spectrum(shown[shown["layer"] == layer], y, names), layer) for layer in layers),
        height=170,
    )


def _spectrum(frame: pd.DataFrame, y: alt.Y, names: list[str]) -> alt.Chart:
    return (
        alt.Chart(_plain(frame, "series", "run", "layer", "index", "sigma", "relative"))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("index:Q", title="Index", axis=alt.Axis(tickMinStep=1, grid=False, tickCount=5), scale=alt.Scale(nice=False)),
            y=y,
            color=color(names),
            detail="run:N",
            tooltip=[
                *tooltips(run="Run", layer="Layer"),
                alt.Tooltip("index:Q", title="Index"),
                *tooltips(".4~g", sigma="σ", relative="σ / σ max"),
            ],
        )
    )


def _epochs(frame: pd.DataFrame, field: str, y: alt.Y, names: list[str]) -> alt.Chart:
    columns = [column for column in ("series", "run", "layer", "epoch", field) if column in frame]
    return (
        alt.Chart(_plain(_thinned(frame, field), *columns))
        .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=22))
        .encode(
            x=alt.X("epoch:Q", title="Epoch", axis=alt.Axis(tickMinStep=1, grid=False, tickCount=5)),
            y=y,
            color=color(names),
            detail="run:N",
            tooltip=[*tooltips(run="Run"), alt.Tooltip("epoch:Q", title="Epoch"), *tooltips(".4~g", **{field: _TITLES[field]})],
        )
    )


def _thinned(frame: pd.DataFrame, field: str) -> pd.DataFrame:
    """Return the rows of lines, one a run, that are drawn: of a long line the smallest and largest of each stretch."""
    if frame["epoch"].nunique() <= _POINTS:
        return frame
    kept = []
    for _, line in frame.groupby("run", sort=False):
        stretch = np.arange(len(line)) * (_POINTS // 2 - 1) // len(line)
        parts = line.reset_index(drop=True)[field].groupby(stretch)
        kept.append(line.iloc[np.unique([0, *parts.idxmin(), *parts.idxmax(), len(line) - 1])])
    return pd.concat(kept)


def _thinning(frame: pd.DataFrame) -> str:
    return " The smallest and largest value of each stretch of epochs are drawn." if frame["epoch"].nunique() > _POINTS else ""


def _plain(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    return frame[list(columns)].reset_index(drop=True)


def _seeds(entries: Sequence[Entry]) -> str:
    return " A line a seed." if len(entries) > len(series_names(entries)) else ""
