"""Pareto fronts are the networks that no other one beats in everything."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from robust_lowrank import numbers
from robust_lowrank.records import RunRecord
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation, Mean


def pareto_front(costs: Sequence[Sequence[float]] | np.ndarray) -> list[bool]:
    """Return for each point, a row of costs, whether it is on the front: no other is as low in every cost and lower in one.

    Points that are equal in everything do not dominate each other.

    Example:
        >>> pareto_front([[1, 3], [2, 1], [2, 3], [1, 3]])
        [True, True, False, True]

    Source: Pareto dominance for minimisation; negate what shall be large.
    """
    points = np.asarray(costs, dtype=float)
    if points.size == 0:
        return []
    no_worse = (points[:, None] <= points[None, :]).all(axis=2)
    better = (points[:, None] < points[None, :]).any(axis=2)
    return np.logical_not((no_worse & better).any(axis=0)).tolist()


@dataclass(frozen=True)
class Objective:
    """The quantity against which robust accuracy is drawn; more of it is worse unless `gain`."""

    name: str  # such as "parameters"
    title: str
    gain: bool = False
    goal: str = ""  # what less of it is good for, such as "size"
    adjective: str = ""  # what a network with less of it is, such as "smaller"


MOST_NAMED = 14  # series whose names can stand in one chart
OBJECTIVES = (
    Objective("clean", "Clean accuracy", gain=True, goal="clean accuracy", adjective="more accurate on clean examples"),
    Objective("parameters", "Parameters stored for inference", goal="size", adjective="smaller"),
    Objective("flops", "FLOPs of one example", goal="FLOPs", adjective="cheaper"),
    Objective("latency", "Latency of one example over dense", goal="latency", adjective="faster"),
)


@dataclass(frozen=True)
class Point:
    """A series in one panel: its robust accuracy and what that costs, means over its seeds."""

    series: str
    robust: Mean
    cost: float
    low: float  # the span over seeds, or the interval of an accuracy
    high: float
    front: bool


@dataclass(frozen=True)
class Fronts:
    """The fronts of robust accuracy at the headline eps against each objective that is known for two series or more."""

    evaluation: Evaluation

    @cached_property
    def points(self) -> dict[Objective, list[Point]]:
        """The points by objective; a series for which it is not known has none."""
        panels = {objective: self._points(objective) for objective in OBJECTIVES}
        return {objective: points for objective, points in panels.items() if len(points) > 1}

    @property
    def sizes(self) -> list[Point]:
        """Every series with its size; none where sizes are equal or unknown, or series too many to be named in one chart."""
        points = next((points for objective, points in self.points.items() if objective.name == "parameters"), [])
        known = len(points) == len(self.evaluation.series) <= MOST_NAMED
        return points if known and len({round(point.cost) for point in points}) > 1 else []

    @property
    def mixed_machines(self) -> bool:
        """True where times were measured on several machines, and so cannot be compared."""
        costs = [entry.run.record.costs for entry in self.evaluation.entries]
        return len({cost.machine for cost in costs if cost}) > 1

    def on(self, objective: Objective) -> list[str]:
        """Return the series on the front of an objective, most robust first."""
        points = sorted(self.points[objective], key=lambda point: point.robust.value, reverse=True)
        return [point.series for point in points if point.front]

    def describe(self, name: str) -> str | None:
        """Say who is on the front of an objective and what that means, or None where it is not known."""
        objective = next((o for o in self.points if o.name == name), None)
        if objective is None:
            return None
        names = self.on(objective)
        if len(names) == 1:
            return f"No network here is {objective.adjective} or more robust than {names[0]}."
        return (
            f"On the front of robustness and {objective.goal} are {numbers.listing(names)}: "
            f"no network here is both {objective.adjective} and more robust than one of them."
        )

    def _points(self, objective: Objective) -> list[Point]:
        priced = [
            (name, robust, values)
            for name in self.evaluation.series
            if (robust := self.evaluation.mean(name, WORST, self.evaluation.headline_eps))
            and (values := self._values(name, objective))
        ]
        sign = -1 if objective.gain else 1
        fronts = pareto_front([(-robust.value, sign * cost) for _, robust, (cost, *_) in priced])
        return [Point(name, robust, *values, front) for (name, robust, values), front in zip(priced, fronts, strict=True)]

    def _values(self, series: str, objective: Objective) -> tuple[float, float, float] | None:
        """Return mean and span of an objective over a series' seeds, or None where a run does not tell it."""
        if objective.name == "clean":
            mean = self.evaluation.mean(series, CLEAN)
            return (mean.value, mean.low, mean.high) if mean else None
        if objective.name == "latency" and self.mixed_machines:
            return None
        members = [entry.run.record for entry in self.evaluation.entries if entry.series == series]
        values = [value for record in members if (value := _cost(record, objective.name)) is not None]
        if len(values) < len(members):
            return None
        return sum(values) / len(values), min(values), max(values)


def _cost(record: RunRecord, name: str) -> float | None:
    if name == "parameters":
        return record.parameters.inference or None
    if record.costs is None:
        return None
    if name == "flops":
        return record.costs.flops
    relative = next((latency.relative for latency in record.costs.latencies if latency.batch == 1), None)
    return 1.0 if relative is not None and record.method == "dense" else relative  # beside itself it shows the clock's noise alone
