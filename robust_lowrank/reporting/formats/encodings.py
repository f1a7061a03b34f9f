"""Charts share encodings: colour and shape of a series, tooltips, a logarithmic axis."""

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

MOST_DECADES = 8  # with a tick each


def color(series: Sequence[str]) -> alt.Color:
    """Return the colour by series, in their order."""
    return alt.Color("series:N", title=None, scale=alt.Scale(domain=list(series)))


def shape(series: Sequence[str]) -> alt.Shape:
    """Return the shape by series, in their order."""
    return alt.Shape("series:N", title=None, scale=alt.Scale(domain=list(series)))


def offset(series: Sequence[str]) -> alt.YOffset:
    """Return the offset that puts the series below one another within a row."""
    return alt.YOffset("series:N", scale=alt.Scale(domain=list(series)))


def tooltips(number_format: str = "", **titles: str) -> list[alt.Tooltip]:
    """Return tooltips by field; of words, or of numbers where a format is given."""
    if not number_format:
        return [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]
    return [alt.Tooltip(f"{field}:Q", title=title, format=number_format) for field, title in titles.items()]


def accuracy_tooltips(title: str = "Accuracy", field: str = "value") -> list[alt.Tooltip]:
    """Return the tooltips of an accuracy with its interval in `low` and `high`."""
    return tooltips(".1%", **{field: title}, low="from", high="to")


def log_axis(values: pd.Series) -> alt.Axis:
    """Return an axis with ticks at 1, 3, 10, 30, ...; powers of ten over more than four decades, some of them over more than eight.

    Within one decade they are finer.
    """
    low, high = values.min(), max(values.max(), 1.0)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 3) if high / low > 10 else (1, 1.2, 1.5, 2, 3, 5, 7)
    steps = (1,) if high / low > 1e4 else steps
    decades = decades[:: math.ceil(len(decades) / MOST_DECADES)]
    return alt.Axis(values=[step * 10.0**decade for decade in decades for step in steps], format="~g")
