"""The charts of accuracy: against the budget, and under each attack."""

import altair as alt
import pandas as pd

from robust_lowrank.reporting import formats
from robust_lowrank.reporting.figures import Figure, Panel
from robust_lowrank.reporting.trials import CLEAN, WORST, Trial

_PERCENT = alt.Axis(format=".0%")


def robustness(trial: Trial) -> Figure:
    """Worst-case accuracy against eps, a line a series."""
    return Figure(
        name=f"robust-accuracy-{trial.slug}",
        title="Robust accuracy against the budget",
        description=f"Worst-case accuracy over {trial.coverage} against eps, one line each for {formats.listing(trial.series)}.",
        caption=f"Share of the {formats.count(trial.examples)} examples still classified correctly under all of "
        f"{trial.coverage}; eps 0 is clean accuracy. {_spread(trial, 'Bands')}",
        series=tuple(trial.series),
        panels=(Panel(_curves(trial, WORST)),),
        height=320,
    )


def attacks(trial: Trial) -> Figure | None:
    """Accuracy under each attack, a panel an attack; None for a suite of one attack, which is its own worst case."""
    if len(trial.attacks) < 2:
        return None
    several = len(trial.eps) > 1
    draw = _curves if several else _forest
    against = "against eps" if several else f"at eps {formats.budget(trial.eps[0])}"
    return Figure(
        name=f"attacks-{trial.slug}",
        title="Accuracy under each attack",
        description=f"Accuracy under {trial.coverage} {against}, a panel each, for {formats.listing(trial.series)}.",
        caption=f"n = {formats.count(trial.examples)}. An attack can only show that an example breaks: the strongest one is "
        f"nearest to the truth. {_spread(trial, 'Bands' if several else 'Bars')}",
        series=tuple(trial.series),
        panels=tuple(Panel(draw(trial, attack), trial.title_of(attack)) for attack in trial.attacks),
        height=200 if several else 26 * len(trial.series) + 20,
    )


def _curves(trial: Trial, attack: str) -> alt.LayerChart:
    rows = []
    for name in trial.series:
        for eps in [0.0, *trial.eps]:
            mean = trial.mean(name, CLEAN) if eps == 0 else trial.mean(name, attack, eps)
            if mean:
                rows.append({"series": name, "eps": eps, **mean._asdict()})
    base = alt.Chart(pd.DataFrame(rows)).encode(
        x=alt.X(
            "eps:Q",
            title=f"Budget eps ({formats.norm(trial.norm)})",
            scale=alt.Scale(domain=[0, max(trial.eps)]),
            axis=alt.Axis(values=[0, *trial.eps], format=".3~g", grid=False, labelOverlap=True),
        ),
        color=_series(trial.series),
        tooltip=[
            alt.Tooltip("series:N", title="Method"),
            alt.Tooltip("eps:Q", title="eps", format=".3~g"),
            *_accuracy_tips(),
            alt.Tooltip("seeds:Q", title="Seeds"),
        ],
    )
    band = base.mark_area(opacity=0.08).encode(y=_accuracy(), y2="high:Q")
    line = base.mark_line(strokeWidth=2).encode(y="value:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(y="value:Q", shape=_shape(trial.series))
    return alt.LayerChart(layer=[band, line, points])


def _forest(trial: Trial, attack: str) -> alt.LayerChart:
    eps = trial.eps[0]
    means = {name: trial.mean(name, attack, eps) for name in trial.series}
    rows = [{"series": name, **mean._asdict()} for name, mean in means.items() if mean]
    base = alt.Chart(pd.DataFrame(rows)).encode(
        y=alt.Y("series:N", sort=trial.series, title=None, axis=alt.Axis(grid=True, labelLimit=150)),
        color=_series(trial.series),
        tooltip=[alt.Tooltip("series:N", title="Method"), *_accuracy_tips(), alt.Tooltip("seeds:Q", title="Seeds")],
    )
    x = alt.X("low:Q", title="Accuracy", axis=_PERCENT, scale=alt.Scale(domain=[0, 1]))
    bars = base.mark_rule(strokeWidth=1.5).encode(x=x, x2="high:Q")
    points = base.mark_point(filled=True, size=70, opacity=1).encode(x="value:Q", shape=_shape(trial.series))
    return alt.LayerChart(layer=[bars, points])


def _series(names: list[str]) -> alt.Color:
    return alt.Color("series:N", title=None, scale=alt.Scale(domain=names))


def _shape(names: list[str]) -> alt.Shape:
    return alt.Shape("series:N", title=None, scale=alt.Scale(domain=names))


def _accuracy() -> alt.Y:
    return alt.Y("low:Q", title="Accuracy", axis=_PERCENT, scale=alt.Scale(domain=[0, 1]))


def _accuracy_tips() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("value:Q", title="Accuracy", format=".1%"),
        alt.Tooltip("low:Q", title="from", format=".1%"),
        alt.Tooltip("high:Q", title="to", format=".1%"),
    ]


def _spread(trial: Trial, marks: str) -> str:
    several = len(trial.entries) > len(trial.series)
    shown = f"the span of the seeds' {trial.interval} intervals around their mean" if several else f"{trial.interval} intervals"
    return f"{marks}: {shown}." + _unresolved(trial)


def _unresolved(trial: Trial) -> str:
    return " Unresolved examples: broken at the marks, either way within the intervals." if trial.unresolved else ""
