"""Accuracy charts show accuracy against the budget, and under each attack."""

from typing import Any

import altair as alt
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel

_ACCURACY: dict[str, Any] = {"title": "Accuracy", "axis": alt.Axis(format=".0%"), "scale": alt.Scale(domain=[0, 1])}
_MEASURED = (*encodings.accuracy_tooltips(), alt.Tooltip("seeds:Q", title="Seeds"))


def robustness(evaluation: Evaluation) -> Figure:
    """Draw worst-case accuracy against eps, a line a series."""
    return Figure(
        name=f"robust-accuracy-{evaluation.slug}",
        title="Robust accuracy against the budget",
        description=f"Worst-case accuracy over {evaluation.coverage} against eps, "
        f"one line each for {numbers.listing(evaluation.series)}.",
        caption=f"Share of the {numbers.count(evaluation.examples)} examples still classified correctly under all of "
        f"{evaluation.coverage}; eps 0 is clean accuracy. {_spread(evaluation, 'Bands')}",
        series=tuple(evaluation.series),
        panels=(Panel(_curves(evaluation, WORST)),),
        height=280,
    )


def attacks(evaluation: Evaluation) -> Figure | None:
    """Draw accuracy under each attack, a panel each; None for a suite of one attack, which is its own worst case."""
    if len(evaluation.attacks) < 2:
        return None
    several = len(evaluation.eps) > 1
    draw = _curves if several else _intervals
    against = "against eps" if several else f"at eps {numbers.budget(evaluation.eps[0])}"
    return Figure(
        name=f"attacks-{evaluation.slug}",
        title="Accuracy under each attack",
        description=f"Accuracy under {evaluation.coverage} {against}, a panel each, for {numbers.listing(evaluation.series)}.",
        caption=f"n = {numbers.count(evaluation.examples)}. An attack can only show that an example breaks: the strongest one is "
        f"nearest to the truth. {_spread(evaluation, 'Bands' if several else 'Bars')}",
        series=tuple(evaluation.series),
        panels=tuple(Panel(draw(evaluation, attack), evaluation.title_of(attack)) for attack in evaluation.attacks),
        height=200 if several else 26 * len(evaluation.series) + 20,
        folded=True,
    )


def _curves(evaluation: Evaluation, attack: str) -> alt.LayerChart:
    rows = []
    for name in evaluation.series:
        for eps in [0.0, *evaluation.eps]:
            mean = evaluation.mean(name, CLEAN) if eps == 0 else evaluation.mean(name, attack, eps)
            if mean:
                rows.append({"series": name, "eps": eps, **mean._asdict()})
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X(
            "eps:Q",
            title=f"Budget eps ({numbers.norm(evaluation.norm)})",
            scale=alt.Scale(domain=[0, max(evaluation.eps)]),
            axis=alt.Axis(values=[0, *evaluation.eps], format=".3~g", grid=False, labelOverlap=True),
        ),
        color=encodings.color(evaluation.series),
        tooltip=[*encodings.tooltips(series="Method"), *encodings.tooltips(".3~g", eps="eps"), *_MEASURED],
    )
    band = base.mark_area(opacity=0.08).encode(y=alt.Y("low:Q", **_ACCURACY), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y="value:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y="value:Q", shape=encodings.shape(evaluation.series))
    return alt.LayerChart(layer=[band, line, points])


def _intervals(evaluation: Evaluation, attack: str) -> alt.LayerChart:
    eps = evaluation.eps[0]
    means = {name: evaluation.mean(name, attack, eps) for name in evaluation.series}
    rows = [{"series": name, **mean._asdict()} for name, mean in means.items() if mean]
    base = alt.Chart(pd.DataFrame(rows)).encode(
        y=alt.Y("series:N", sort=evaluation.series, title=None, axis=alt.Axis(grid=True, labelLimit=150)),
        color=encodings.color(evaluation.series),
        tooltip=[*encodings.tooltips(series="Method"), *_MEASURED],
    )
    bars = base.mark_rule(strokeWidth=1.5).encode(x=alt.X("low:Q", **_ACCURACY), x2="high:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x="value:Q", shape=encodings.shape(evaluation.series))
    return alt.LayerChart(layer=[bars, points])


def _spread(evaluation: Evaluation, marks: str) -> str:
    intervals = f"{evaluation.interval} intervals"
    shown = f"the span of the seeds' {intervals} around their mean" if evaluation.repeated else intervals
    unresolved = " Unresolved examples: broken at the marks, either way within the intervals." if evaluation.unresolved else ""
    return f"{marks}: {shown}.{unresolved}"
