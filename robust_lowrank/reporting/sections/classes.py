"""The section on classes shows which of them are weakest, and for whom."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import altair as alt
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, count_cell, mean_cell
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import bounded

LEAST_EXAMPLES = 5  # a class, on average: with fewer the intervals cover almost everything
SHOWN = 12  # classes in the chart


@dataclass(frozen=True)
class Classes(EvaluationSection):
    """Accuracies by class of one evaluation: on clean examples and in the worst case at the headline eps.

    `frame` has a row a series, class and kind: series, label, kind ("clean" or "worst"), value, low, high, most, seeds. Over seeds
    it holds the mean, and the span of the intervals.
    """

    frame: pd.DataFrame
    sizes: dict[int, int]  # examples, by label
    order: tuple[int, ...]  # labels, the weakest in the worst case over the series' mean first
    report = "comparison"
    place = 40
    slug = "classes"
    heading = "Class by class"
    folded = True

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> Self | None:
        """Return the accuracies by class, or None where there are too few examples of a class or only one class."""
        verdicts = evaluation.results[evaluation.entries[0].name].verdicts
        labels = verdicts.drop_duplicates("example").set_index("example")["label"]
        sizes = {int(label): int(count) for label, count in labels.value_counts().sort_index().items()}  # pyright: ignore[reportArgumentType]
        if len(sizes) < 2 or len(labels) < LEAST_EXAMPLES * len(sizes):
            return None
        rows = []
        for kind, eps in (("clean", 0.0), ("worst", evaluation.headline_eps)):
            for entry in evaluation.entries:
                held = evaluation.held(entry, eps)
                for label, part in held.groupby(labels.reindex(held.index)):
                    right, most = int(part["least"].sum()), int(part["most"].sum())
                    accuracy = bounded(right, most - right, len(part))._asdict()
                    rows.append({"series": entry.series, "label": int(label), "kind": kind, "most": most / len(part), **accuracy})  # pyright: ignore[reportArgumentType]
        if not rows:
            return None
        grouped = pd.DataFrame(rows).groupby(["series", "label", "kind"], sort=False)
        frame = grouped.agg(
            value=("value", "mean"), most=("most", "mean"), low=("low", "min"), high=("high", "max"), seeds=("value", "size")
        ).reset_index()
        worst = frame[frame["kind"] == "worst"].groupby("label")["value"].mean()
        return cls(evaluation, frame, sizes, tuple(int(label) for label in worst.sort_values(kind="stable").index))

    def name(self, label: int) -> str:
        """Return a class's name, or its number where the record has none."""
        return self.evaluation.entries[0].class_name(label)

    @property
    def statement(self) -> str:
        """Name the weakest and the strongest class under attack."""
        means = self.frame[self.frame["kind"] == "worst"].groupby("label")["value"].mean()
        weakest, strongest = self.order[0], self.order[-1]
        return (
            f"Weakest at {self.evaluation.threat} is class {self.name(weakest)} "
            f"(mean over the methods {numbers.percent(means[weakest])} %, n = {self.sizes[weakest]}), strongest "
            f"{self.name(strongest)} ({numbers.percent(means[strongest])} %, n = {self.sizes[strongest]})."
        )

    @cached_property
    def figure(self) -> Figure:
        """Accuracy of each class, clean and in the worst case, a point a series, the weakest class on top."""
        evaluation, series = self.evaluation, self.evaluation.series
        shown = self.order[:SHOWN]
        names = [self.name(label) for label in shown]
        left_out = f" The {SHOWN} weakest of {len(self.order)} classes." if len(shown) < len(self.order) else ""
        titles = {"clean": "Clean", "worst": f"Worst case at eps {numbers.budget(evaluation.headline_eps)}"}
        frame = self.frame[self.frame["label"].isin(shown)]
        frame = frame.assign(label=[self.name(label) for label in frame["label"]])
        return Figure(
            name=f"classes-{evaluation.slug}",
            title="Accuracy class by class",
            description=f"Accuracy of each class on clean examples and in the worst case for {numbers.listing(series)}. "
            + self.statement,
            caption=f"Weakest class first (mean over the methods in the worst case). Bars: {_spans(evaluation)}.{left_out}",
            series=tuple(series),
            panels=tuple(Panel(_panel(frame[frame["kind"] == kind], names, series), title) for kind, title in titles.items()),
            height=max(160, len(shown) * (7 * len(series) + 8)),
        )

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """The worst case at the headline eps, and clean accuracy: a row a class, weakest first, a column a series."""
        eps = numbers.budget(self.evaluation.headline_eps)
        return _table(self, "worst", f"worst case, %, at eps {eps}"), _table(self, "clean", "clean accuracy, %")


def _spans(evaluation: Evaluation) -> str:
    intervals = f"{evaluation.interval} intervals"
    return f"the span of the seeds' {intervals}" if evaluation.repeated else intervals


def _table(classes: Classes, kind: str, what: str) -> Table:
    evaluation = classes.evaluation
    part = classes.frame[classes.frame["kind"] == kind].set_index(["label", "series"])
    cells = {key: mean_cell(*accuracy) for key, *accuracy in part[["value", "most", "low", "high"]].itertuples(name=None)}
    return Table(
        name=f"classes-{kind}-{evaluation.slug}",
        caption=f"Class by class: {what}, {evaluation.title}; {_spans(evaluation)} below.",
        columns=(Column("Class", numeric=False), Column("n"), *(Column(name, series=name) for name in evaluation.series)),
        rows=tuple(
            (
                Cell(classes.name(label)),
                count_cell(classes.sizes[label]),
                *(cells.get((label, name), Cell("–")) for name in evaluation.series),
            )
            for label in classes.order
        ),
        notes=("Many classes are looked at here: that the weakest is weak may be chance, which the intervals show.",),
    )


def _panel(frame: pd.DataFrame, order: list[str], names: list[str]) -> alt.LayerChart:
    base = alt.Chart(frame.reset_index(drop=True)).encode(
        y=alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=True, bandPosition=0, labelLimit=110)),
        yOffset=encodings.offset(names),
        color=encodings.color(names),
        tooltip=[*encodings.tooltips(series="Method", label="Class"), *encodings.accuracy_tooltips()],
    )
    x = alt.X("low:Q", title="Accuracy", axis=alt.Axis(format=".0%", tickCount=5), scale=alt.Scale(domain=[0, 1]))
    bars = base.mark_rule(strokeWidth=1, opacity=0.6).encode(x=x, x2="high:Q")
    points = base.mark_point(filled=True, size=38, opacity=1).encode(x="value:Q", shape=encodings.shape(names))
    return alt.LayerChart(layer=[bars, points])
