"""Certified robustness beside attacked: a proved lower bound and a found upper bound on one curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from robust_lowrank.records import Certificate
from robust_lowrank.reporting import formats
from robust_lowrank.reporting.entries import Entry
from robust_lowrank.reporting.figures import Figure, Panel
from robust_lowrank.reporting.trials import Trial

_NAMES = {"lipschitz": "certified", "smoothing": "certified, smoothed network"}
_SMOOTHED = (
    " A smoothing certificate speaks of the smoothed network, which is another classifier than the attacked one: "
    "it is no lower bound of the attacked network's accuracy."
)


@dataclass(frozen=True)
class Bracket:
    """What is known of a run's accuracy at every L2 radius, on the examples that were both certified and attacked."""

    entry: Entry
    certificate: Certificate
    examples: int
    curve: pd.DataFrame  # columns radius, certified, attacked (NaN beyond the largest eps); each holds up to the next radius

    @property
    def bounds(self) -> bool:
        """Whether the certificate is of the network itself; smoothing makes another classifier of it."""
        return self.certificate.record.kind != "smoothing"


def certified_accuracy(frame: pd.DataFrame, radius: float) -> float:
    """Return the share of examples that are right and stay so for every input nearer than `radius`.

    Example:
        >>> frame = pd.DataFrame({"label": [1, 1], "prediction": [1, 0], "radius": [0.3, 0.5], "abstained": False})
        >>> certified_accuracy(frame, 0.2), certified_accuracy(frame, 0.4)
        (0.5, 0.0)
    """
    return float((_right(frame) & (frame["radius"] >= radius)).mean())


def find_brackets(trial: Trial) -> list[Bracket]:
    """Return certified and attacked accuracy for every run of an L2 trial that has certificates."""
    if trial.norm != "L2":
        return []
    found = []
    for entry in trial.entries:
        for certificate in entry.run.certificates.values():
            if bracket := _bracket(trial, entry, certificate):
                found.append(bracket)
    return found


def statement(brackets: Sequence[Bracket], trial: Trial) -> str:
    """Say between which bounds each network's accuracy lies at the smallest eps."""
    eps = trial.eps[0]
    parts = []
    for bracket in (bracket for bracket in brackets if bracket.bounds):
        here = bracket.curve[bracket.curve["radius"] <= eps].iloc[-1]
        certified = certified_accuracy(_common(trial, bracket.entry, bracket.certificate), eps)
        parts.append(f"{bracket.entry.name} between {formats.percent(certified)} and {formats.percent(here['attacked'])} %")
    return f"True accuracy at L2 eps {formats.budget(eps)}: {'; '.join(parts)}." if parts else ""


def figure(brackets: Sequence[Bracket], trial: Trial) -> Figure | None:
    """Certified lower bound and attack's upper bound against the radius, a panel a run and certificate."""
    if not brackets:
        return None
    names = list(dict.fromkeys(bracket.entry.series for bracket in brackets))
    smoothed = any(not bracket.bounds for bracket in brackets)
    examples = formats.count(brackets[0].examples)
    several = len({bracket.certificate.record.name for bracket in brackets}) > 1
    return Figure(
        name=f"certified-{trial.slug}",
        title="Proved and attacked: between which bounds the accuracy lies",
        description=f"Certified accuracy and accuracy under {trial.coverage} against the L2 radius for {formats.listing(names)}. "
        + statement(brackets, trial),
        caption=f"n = {examples} examples, certified and attacked. Solid: proved, the true accuracy is not lower. "
        f"Dashed: what {trial.coverage} left, the true accuracy is not higher. It lies in the tinted area between."
        + (_SMOOTHED if smoothed else ""),
        series=tuple(names),
        panels=tuple(
            Panel(
                _panel(bracket, names, max(trial.eps)),
                bracket.entry.name
                + (f", {_NAMES.get(bracket.certificate.record.kind, bracket.certificate.record.kind)}" if several else ""),
            )
            for bracket in brackets
        ),
        height=200,
    )


def _panel(bracket: Bracket, names: list[str], widest: float) -> alt.LayerChart:
    curve = bracket.curve.assign(series=bracket.entry.series)
    last = curve[curve["radius"] <= widest]
    base = alt.Chart(last.reset_index(drop=True)).encode(
        x=alt.X("radius:Q", title="L2 radius", axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(domain=[0, widest])),
        color=alt.Color("series:N", title=None, scale=alt.Scale(domain=names)),
        tooltip=[
            alt.Tooltip("series:N", title="Method"),
            alt.Tooltip("radius:Q", title="Radius", format=".3~g"),
            alt.Tooltip("certified:Q", title="Certified", format=".1%"),
            alt.Tooltip("attacked:Q", title="Under attack", format=".1%"),
        ],
    )
    y = alt.Y("certified:Q", title="Accuracy", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1]))
    lines = [
        base.mark_line(interpolate="step-after", strokeWidth=2).encode(y=y),
        base.mark_line(interpolate="step-after", strokeWidth=2, strokeDash=[5, 3]).encode(y="attacked:Q"),
    ]
    if bracket.bounds:
        lines.insert(0, base.mark_area(opacity=0.12, interpolate="step-after").encode(y=y, y2="attacked:Q"))
    return alt.LayerChart(layer=lines)


def _bracket(trial: Trial, entry: Entry, certificate: Certificate) -> Bracket | None:
    frame = _common(trial, entry, certificate)
    if frame.empty:
        return None
    attacked = {0.0: trial.held(entry, 0.0)} | {eps: held for eps in trial.eps if not (held := trial.held(entry, eps)).empty}
    upper = pd.Series({eps: float(held["most"].reindex(frame["example"]).mean()) for eps, held in attacked.items()}).sort_index()
    right = frame[_right(frame)]
    grid = np.unique(np.concatenate([[0.0], right["radius"].to_numpy(dtype=float), upper.index.to_numpy(dtype=float)]))
    grid = grid[np.isfinite(grid)]
    curve = pd.DataFrame(
        {
            "radius": grid,
            "certified": [float((right["radius"] > radius).sum()) / len(frame) for radius in grid],
            "attacked": [upper[upper.index <= radius].iloc[-1] for radius in grid],
        }
    )
    return Bracket(entry, certificate, len(frame), curve)


def _common(trial: Trial, entry: Entry, certificate: Certificate) -> pd.DataFrame:
    """Return the certificate's rows of examples that were attacked; none if it is of other weights, or of other examples.

    A certificate may be of fewer examples than the attack or of more, so that labels tell whether they are the same.
    """
    result, table = trial.results[entry.name], certificate.table
    labels = result.verdicts.drop_duplicates("example").set_index("example")["label"]
    frame = table[table["example"].isin(labels.index)]
    same = (labels.reindex(frame["example"]).to_numpy() == frame["label"].to_numpy()).all()
    return frame if same and certificate.record.hashes["weights"] == result.record.hashes["weights"] else frame.iloc[:0]


def _right(frame: pd.DataFrame) -> pd.Series:
    return (frame["prediction"] == frame["label"]) & ~frame["abstained"].astype(bool)
