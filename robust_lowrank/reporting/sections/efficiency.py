"""The section on costs shows robust accuracy against them: the Pareto fronts as a figure and a table."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import altair as alt
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.records import Costs, Latency
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation
from robust_lowrank.reporting.comparing.pareto import Fronts, Objective
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.tables import Cell, Table, count_cell, mean_cell, numeric, quantity_cell, words
from robust_lowrank.reporting.sections.section import EvaluationSection

_PERCENT = alt.Axis(format=".0%", tickCount=5)
_COUNTS = alt.Axis(labelExpr="datum.value ? format(datum.value, '~s') : '0'", tickCount=5)
_TIMES = alt.Axis(format="~g", tickCount=5)
_DIMMED = 0.35
_ON_FRONT = "✓"


@dataclass(frozen=True)
class Efficiency(EvaluationSection):
    """Robust accuracy of an evaluation's series against what it costs."""

    fronts: Fronts
    report = "comparison"
    place = 30
    slug = "costs"
    heading = "Robustness and its costs"

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> Self | None:
        """Return the fronts of an evaluation, or None where there are none."""
        fronts = Fronts(evaluation)
        return cls(evaluation, fronts) if fronts.points else None

    @cached_property
    def figure(self) -> Figure | None:
        """Robust accuracy at the headline eps against what it costs, and against parameters if no chart on top has them."""
        evaluation, fronts, names = self.evaluation, self.fronts, self.evaluation.series
        elsewhere = "parameters" if fronts.sizes else ""  # on top of the page
        drawn = [objective for objective in fronts.points if objective.name != elsewhere]
        if not drawn:
            return None
        spans = "the span of the seeds' intervals around their mean" if evaluation.repeated else f"{evaluation.interval} intervals"
        return Figure(
            name=f"pareto-{evaluation.slug}",
            title="Robustness against what it costs",
            description=f"Worst-case accuracy at eps {numbers.budget(evaluation.headline_eps)} against "
            f"{numbers.listing([_lowered(objective) for objective in drawn])}, a panel each, a point each for "
            f"{numbers.listing(names)}; points on the Pareto front stand out.",
            caption=f"Worst-case accuracy at {evaluation.threat}, "
            f"n = {numbers.count(evaluation.examples)}. Ringed: on the Pareto front, no other point is at least as good in both "
            f"and better in one; dimmed: off it. The line joins the front. Bars: {spans}; "
            "whether two points differ, the paired tests say."
            + (" Times of different machines are not drawn." if fronts.mixed_machines else ""),
            series=tuple(names),
            panels=tuple(Panel(_panel(fronts, objective), objective.title) for objective in drawn),
            height=190,
        )

    @cached_property
    def table(self) -> Table:
        """The costs of every series, and the fronts that it is on."""
        evaluation, fronts = self.evaluation, self.fronts
        eps = numbers.budget(evaluation.headline_eps)
        costs = {name: _costs(evaluation, name) for name in evaluation.series}
        measured = [cost for cost in costs.values() if cost]
        batches = sorted({latency.batch for cost in measured for latency in cost.latencies}) if not fronts.mixed_machines else []
        return Table(
            name=f"pareto-{evaluation.slug}",
            caption=f"What robustness costs, and who is on which Pareto front ({evaluation.title}).",
            columns=(
                *words("Method"),
                *numeric(f"Robust accuracy, %, at eps {eps}", "Clean accuracy, %", "Parameters"),
                *(numeric("FLOPs") if measured else ()),
                *numeric(*(f"batch of {batch}" if batch > 1 else "one example" for batch in batches), group="Latency over dense"),
                *words(*(_lowered(objective) for objective in fronts.points), group="On the front of robustness and"),
            ),
            rows=tuple(_row(fronts, name, costs[name], batches, bool(measured)) for name in evaluation.series),
            notes=tuple(_notes(fronts, measured)),
        )


def _panel(fronts: Fronts, objective: Objective) -> alt.LayerChart:
    names, points = fronts.evaluation.series, fronts.points[objective]
    frame = pd.DataFrame(
        {"series": point.series, "value": point.robust.value, "low": point.robust.low, "high": point.robust.high}
        | {"cost": point.cost, "cost_low": point.low, "cost_high": point.high, "front": point.front}
        for point in points
    )
    axis = _PERCENT if objective.gain else _TIMES if objective.name == "latency" else _COUNTS
    base = alt.Chart(frame).encode(
        color=encodings.color(names),
        opacity=alt.condition("datum.front", alt.value(1), alt.value(_DIMMED)),
        tooltip=[
            *encodings.tooltips(series="Method"),
            *encodings.accuracy_tooltips("Robust accuracy"),
            alt.Tooltip("cost:Q", title=objective.title, format=".1%" if objective.gain else ",.4~g"),
            alt.Tooltip("front:N", title="On the front"),
        ],
    )
    x = alt.X("cost:Q", title=objective.title, axis=axis, scale=alt.Scale(zero=False, padding=14))
    y = alt.Y("value:Q", title="Robust accuracy", axis=_PERCENT, scale=alt.Scale(zero=False, padding=14))
    step = "step-before" if objective.gain else "step-after"
    line = (
        alt.Chart(frame[frame["front"]].sort_values("cost").reset_index(drop=True))
        .mark_line(interpolate=step, strokeWidth=1.5, strokeDash=[3, 3], color="#8b94a1")
        .encode(x=x, y=y)
    )
    rings = base.transform_filter("datum.front").mark_point(size=260, strokeWidth=1.5, shape="circle", filled=False)
    return alt.LayerChart(
        layer=[
            line,
            base.mark_rule(strokeWidth=1.5).encode(x=x, y=alt.Y("low:Q", title="Robust accuracy"), y2="high:Q"),
            base.mark_rule(strokeWidth=1.5).encode(x=alt.X("cost_low:Q", title=objective.title), x2="cost_high:Q", y=y),
            base.mark_point(filled=True, size=80).encode(x=x, y=y, shape=encodings.shape(names)),
            rings.encode(x=x, y=y),
        ]
    )


def _row(fronts: Fronts, series: str, costs: Costs | None, batches: list[int], flops: bool) -> tuple[Cell, ...]:
    evaluation = fronts.evaluation
    parameters = evaluation.parameters(series)
    times = {latency.batch: latency for latency in costs.latencies} if costs else {}
    dense = any(entry.series == series and entry.run.record.method == "dense" for entry in evaluation.entries)
    return (
        Cell(series, series=series),
        _mean_cell(evaluation, series, WORST),
        _mean_cell(evaluation, series, CLEAN),
        count_cell(round(parameters)) if parameters else Cell("–"),
        *([_flops_cell(costs)] if flops else []),
        *(_latency_cell(times.get(batch), dense=dense) for batch in batches),
        *(Cell(_ON_FRONT if series in fronts.on(objective) else "") for objective in fronts.points),
    )


def _mean_cell(evaluation: Evaluation, series: str, attack: str) -> Cell:
    eps = evaluation.headline_eps
    mean, interval = evaluation.mean(series, attack, eps), evaluation.interval_of(series, attack, eps)
    return mean_cell(mean.value, mean.most, interval.low, interval.high) if mean and interval else Cell("–")


def _flops_cell(costs: Costs | None) -> Cell:
    return count_cell(costs.flops, f"{numbers.percent(costs.flops / costs.dense_flops)} % of dense") if costs else Cell("–")


def _latency_cell(latency: Latency | None, *, dense: bool) -> Cell:
    if latency is None or latency.relative is None:
        return Cell("–")
    details = [f"{numbers.quantity(latency.milliseconds)} ms"]
    if dense:
        return Cell("1", details[0], value=1.0)
    if latency.ratio_low is not None and latency.ratio_high is not None:
        details.insert(0, f"{numbers.quantity(latency.ratio_low)} to {numbers.quantity(latency.ratio_high)}")
    return quantity_cell(latency.relative, "; ".join(details))


def _costs(evaluation: Evaluation, series: str) -> Costs | None:
    return next((e.run.record.costs for e in evaluation.entries if e.series == series and e.run.record.costs), None)


def _notes(fronts: Fronts, measured: list[Costs]) -> list[str]:
    notes = [text for objective in fronts.points if (text := fronts.describe(objective.name))]
    if fronts.evaluation.repeated:
        notes.append("Accuracies of several seeds are means, with 95 % t-intervals over the seeds below.")
    notes.append("A front compares the measured values; it says nothing of whether their differences are more than chance.")
    if measured:
        notes.append(
            "FLOPs: of one example's forward pass, 2 a multiplication and addition, matrix products and convolutions alone "
            "(torch.utils.flop_counter), of the network as stored for inference; below, against the dense network."
        )
        machines = numbers.listing(list(dict.fromkeys(costs.machine for costs in measured)))
        why = "; measured on several machines, so not compared" if fronts.mixed_machines else ""
        notes.append(
            f"Latency: forward passes of the network and of the dense one in turn, in one process, on {machines}{why}: the median "
            "of the ratios; below, their quartiles and the median time."
        )
    return notes


def _lowered(objective: Objective) -> str:
    title = objective.title.partition(",")[0]
    return title if title.startswith("FLOP") else title[0].lower() + title[1:]
