"""Certified robustness beside attacked: a proved lower bound and a found upper bound on one curve."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import pandas as pd

from robust_lowrank.records import Certificate
from robust_lowrank.reporting.comparing.comparisons import ALPHA
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.statements import Statement
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, quantity_cell
from robust_lowrank.statistics import Comparison, clopper_pearson, pairwise

_SMOOTHED = (
    " A smoothing certificate speaks of the smoothed network, which is another classifier than the attacked one: "
    "it is no lower bound of the attacked network's accuracy."
)


@dataclass(frozen=True)
class Bracket:
    """What is known of a run's accuracy at every L2 radius, on the examples that were both certified and attacked."""

    entry: Entry
    certificate: Certificate
    frame: pd.DataFrame  # the certificate's rows of the common examples
    curve: pd.DataFrame  # columns radius, certified, attacked (NaN beyond the largest eps); each holds up to the next radius

    @property
    def examples(self) -> int:
        """How many examples were both certified and attacked."""
        return len(self.frame)

    @property
    def bounds(self) -> bool:
        """Whether the certificate is of the network itself; smoothing makes another classifier of it."""
        return self.certificate.record.kind != "smoothing"

    def between(self, eps: float) -> tuple[float, float]:
        """Return the shares that are proved and that attacks left at `eps`."""
        return certified_accuracy(self.frame, eps), float(self.curve[self.curve["radius"] <= eps].iloc[-1]["attacked"])


def certified_accuracy(frame: pd.DataFrame, radius: float) -> float:
    """Return the share of examples that are right and stay so for every input nearer than `radius`.

    Example:
        >>> frame = pd.DataFrame({"label": [1, 1], "prediction": [1, 0], "radius": [0.3, 0.5], "abstained": False})
        >>> certified_accuracy(frame, 0.2), certified_accuracy(frame, 0.4)
        (0.5, 0.0)
    """
    return float((_right(frame) & (frame["radius"] >= radius)).mean())


def find_brackets(evaluation: Evaluation) -> list[Bracket]:
    """Return certified and attacked accuracy for every run of an L2 evaluation that has certificates."""
    if evaluation.norm != "L2":
        return []
    found = []
    for entry in evaluation.entries:
        for certificate in entry.run.certificates.values():
            if bracket := _bracket(evaluation, entry, certificate):
                found.append(bracket)
    return found


def statement(brackets: Sequence[Bracket], evaluation: Evaluation) -> str:
    """Say between which bounds each network's accuracy lies at the eps that the summary speaks of."""
    eps = evaluation.headline_eps
    parts = []
    for bracket in _true_bounds(brackets):
        proved, left = (numbers.percent(value) for value in bracket.between(eps))
        parts.append(f"{bracket.entry.name} between {proved} and {left} %")
    return f"True accuracy at L2 eps {numbers.budget(eps)}: {'; '.join(parts)}." if parts else ""


def findings(brackets: Sequence[Bracket], evaluation: Evaluation) -> list[Statement]:
    """Say of whom most is proved, beside the dense network or else the next.

    At the eps that the summary speaks of, or the largest one below it at which anything is.
    """
    proved = {bracket.entry.name: bracket for bracket in _true_bounds(brackets)}
    if not proved:
        return []
    eps = next((eps for eps in _falling(evaluation) if any(bracket.between(eps)[0] for bracket in proved.values())), None)
    if eps is None:
        return [
            Statement(
                "note", f"Nothing is proved at L2 eps {numbers.budget(evaluation.eps[0])}: the Lipschitz bounds are too large."
            )
        ]
    ranked = sorted(proved, key=lambda name: proved[name].between(eps)[0], reverse=True)
    best, *rest = ranked
    most = f"{best} is right on {_proved(proved[best], eps)} of {numbers.count(proved[best].examples)} examples whatever the attack"
    where = f"Proved at L2 eps {numbers.budget(eps)}: "
    rival = next((name for name in rest if proved[name].entry.run.record.method == "dense"), rest[0] if rest else None)
    if rival is None:
        return [Statement("note", f"{where}{most}.")]
    tests = _tests(proved, eps)
    tested = next((test for test in tests if {test.a, test.b} == {best, rival}), None)
    text = f"{where}{most}, {rival} on {_proved(proved[rival], eps)}"
    if tested is None:
        return [Statement("note", f"{text}; they were not certified on the same examples.")]
    family = f", Holm-corrected over {len(tests)}" if len(tests) > 1 else ""
    test = f"(exact McNemar, p {numbers.p_value(tested.p_holm)}{family})"
    if tested.p_holm < ALPHA:
        return [Statement("supported", f"{text} {test}.")]
    return [Statement("open", f"{text}; the test cannot tell these apart {test}.")]


def table(brackets: Sequence[Bracket], evaluation: Evaluation) -> Table | None:
    """Lipschitz bound and, at every eps, between which shares the accuracy lies, a row a run; None where nothing is proved."""
    rows = tuple(
        (
            Cell(bracket.entry.name, f"n = {numbers.count(bracket.examples)}", series=bracket.entry.series),
            quantity_cell(math.nan if bracket.certificate.record.bound is None else bracket.certificate.record.bound),
            *(_between(bracket, eps) for eps in evaluation.eps),
        )
        for bracket in _true_bounds(brackets)
    )
    if not rows:
        return None
    return Table(
        name=f"certified-{evaluation.slug}",
        caption=f"Proved and attacked, {evaluation.title}: the accuracy on these examples is not lower than the first number "
        "and not higher than the second.",
        columns=(
            Column("Method", numeric=False),
            Column("Lipschitz bound"),
            *(Column(numbers.budget(eps), "Accuracy, %, at L2 eps") for eps in evaluation.eps),
        ),
        rows=rows,
        notes=(
            "Below: 95 % limits of the accuracy on examples like these, from the lower Clopper–Pearson limit of what is proved "
            f"to the upper one of what {evaluation.coverage} left.",
        ),
    )


def figure(brackets: Sequence[Bracket], evaluation: Evaluation) -> Figure | None:
    """Certified lower bound and attack's upper bound against the radius, a panel a run and certificate."""
    if not brackets:
        return None
    names = list(dict.fromkeys(bracket.entry.series for bracket in brackets))
    smoothed = any(not bracket.bounds for bracket in brackets)
    counts = {bracket.examples for bracket in brackets}
    examples = f"n = {numbers.count(brackets[0].examples)} examples" if len(counts) == 1 else "The examples that were"
    several = len({bracket.certificate.record.name for bracket in brackets}) > 1
    return Figure(
        name=f"certified-{evaluation.slug}",
        title="Proved and attacked: between which bounds the accuracy lies",
        description=f"Certified accuracy and accuracy under {evaluation.coverage} against the L2 radius "
        f"for {numbers.listing(names)}. " + statement(brackets, evaluation),
        caption=f"{examples} certified and attacked. Solid: proved, the true accuracy is not lower. "
        f"Dashed: what {evaluation.coverage} left, the true accuracy is not higher. It lies in the tinted area between."
        + (_SMOOTHED if smoothed else ""),
        series=tuple(names),
        panels=tuple(
            Panel(_panel(bracket, names, max(evaluation.eps)), _panel_title(bracket, several=several, counted=len(counts) > 1))
            for bracket in brackets
        ),
        height=200,
    )


def _panel_title(bracket: Bracket, *, several: bool, counted: bool) -> str:
    record = bracket.certificate.record
    parts = [bracket.entry.name]
    if not bracket.bounds:
        own = record.parameters
        parts.append(f"smoothed network, σ = {own['sigma']:g}, {numbers.count(int(own['n']))} samples, α = {own['alpha']:g}")
    elif several:
        parts.append("certified")
    if counted:
        parts.append(f"n = {numbers.count(bracket.examples)}")
    return ", ".join(parts)


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


def _bracket(evaluation: Evaluation, entry: Entry, certificate: Certificate) -> Bracket | None:
    frame = _common(evaluation, entry, certificate)
    if frame.empty:
        return None
    attacked = {0.0: evaluation.held(entry, 0.0)} | {
        eps: held for eps in evaluation.eps if not (held := evaluation.held(entry, eps)).empty
    }
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
    return Bracket(entry, certificate, frame, curve)


def _common(evaluation: Evaluation, entry: Entry, certificate: Certificate) -> pd.DataFrame:
    """Return the certificate's rows of examples that were attacked; none if it is of other weights, or of other examples.

    A certificate may be of fewer examples than the attack or of more, so that labels tell whether they are the same.
    """
    result, table = evaluation.results[entry.name], certificate.table
    labels = result.verdicts.drop_duplicates("example").set_index("example")["label"]
    frame = table[table["example"].isin(labels.index)]
    same = (labels.reindex(frame["example"]).to_numpy() == frame["label"].to_numpy()).all()
    return frame if same and certificate.record.hashes["weights"] == result.record.hashes["weights"] else frame.iloc[:0]


def _true_bounds(brackets: Sequence[Bracket]) -> list[Bracket]:
    return [bracket for bracket in brackets if bracket.bounds]


def _falling(evaluation: Evaluation) -> list[float]:
    return [eps for eps in reversed(evaluation.eps) if eps <= evaluation.headline_eps]


def _held(bracket: Bracket, eps: float) -> np.ndarray:
    return (_right(bracket.frame) & (bracket.frame["radius"] >= eps)).to_numpy(dtype=bool)


def _tests(proved: Mapping[str, Bracket], eps: float) -> list[Comparison]:
    """Compare those that were certified on the same examples as the first of them."""
    first = next(iter(proved.values())).frame["example"].to_numpy()
    same = {name: _held(b, eps) for name, b in proved.items() if np.array_equal(b.frame["example"].to_numpy(), first)}
    return pairwise(same)


def _proved(bracket: Bracket, eps: float) -> str:
    found = clopper_pearson(int(_held(bracket, eps).sum()), bracket.examples)
    return f"{numbers.percent(found.value)} % {numbers.interval(found.low, found.high)}"


def _between(bracket: Bracket, eps: float) -> Cell:
    least, most = bracket.between(eps)
    low = clopper_pearson(round(least * bracket.examples), bracket.examples).low
    high = clopper_pearson(round(most * bracket.examples), bracket.examples).high
    return Cell(f"{numbers.percent(least)} to {numbers.percent(most)}", numbers.interval(low, high), value=least)


def _right(frame: pd.DataFrame) -> pd.Series:
    return (frame["prediction"] == frame["label"]) & ~frame["abstained"].astype(bool)
