"""The section on transfers tries what breaks one network on the others."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Self

import altair as alt
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.records import TRANSFER
from robust_lowrank.reporting.comparing.entries import CROWD, Entry
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, percent_cell
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import Interval, wilson


@dataclass(frozen=True)
class Transfers(EvaluationSection):
    """The inputs of one attack at the headline eps: those made on each run, tried on each other."""

    attack: str
    eps: float
    counts: dict[tuple[str, str], tuple[int, int]]  # by names of source and target: tried, fooled
    report = "comparison"
    place = 50
    slug = "transfer"
    heading = "Transfer"
    folded = True

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> Self | None:
        """Return the stored transfers at the headline eps under the attack that breaks most; None where none were stored.

        Only rows of the evaluation's own weights, examples and attack count.
        """
        eps = evaluation.headline_eps
        stored = {entry.name: _fresh(evaluation, entry) for entry in evaluation.entries}
        frames = {name: frame[frame["eps"] == eps] for name, frame in stored.items() if frame is not None}
        attacks = [name for name in evaluation.attacks_at(eps) if any((frame["attack"] == name).any() for frame in frames.values())]
        if not attacks:
            return None
        attack = min(attacks, key=lambda name: sum(a.value for e in evaluation.entries if (a := evaluation.accuracy(e, name, eps))))
        counts: dict[tuple[str, str], tuple[int, int]] = {}
        weights = {evaluation.results[entry.name].record.hashes["weights"]: entry.name for entry in evaluation.entries}
        for target, frame in frames.items():
            for row in frame[frame["attack"] == attack].itertuples():
                if row.source_weights in weights:
                    counts[weights[str(row.source_weights)], target] = (int(row.tried), int(row.fooled))  # pyright: ignore[reportArgumentType]
        for entry in evaluation.entries:
            verdicts = evaluation.results[entry.name].verdicts
            broken = int(((verdicts["attack"] == attack) & (verdicts["eps"] == eps) & (verdicts["verdict"] == "broken")).sum())
            counts[entry.name, entry.name] = (broken, broken)
        crossed = {name for source, target in counts if source != target for name in (source, target)}
        return cls(evaluation, attack, eps, counts) if 0 < len(crossed) <= CROWD else None

    @property
    def names(self) -> list[str]:
        """The runs that were tried on others or had others' inputs tried on them, in the order of the report."""
        crossed = {name for pair in self.counts if pair[0] != pair[1] for name in pair}
        return [entry.name for entry in self.evaluation.entries if entry.name in crossed]

    def accuracy(self, source: str, target: str) -> Interval | None:
        """Return the target's accuracy on what broke the source, of those that it gets right when clean; None without any."""
        tried, fooled = self.counts.get((source, target), (0, 0))
        return wilson(tried - fooled, tried) if tried else None

    @cached_property
    def others(self) -> dict[tuple[str, str], float]:
        """The accuracies off the diagonal."""
        pairs = [pair for pair in product(self.names, self.names) if pair[0] != pair[1]]
        return {pair: held.value for pair in pairs if (held := self.accuracy(*pair))}

    @property
    def statement(self) -> str:
        """Say whose inputs transfer best, and who withstands the others' best."""
        others = self.others
        if not others:
            return "No input that broke a network here was tried on another one."
        mean = sum(others.values()) / len(others)
        text = (
            f"On average a network stays right on {numbers.percent(mean)} % of what broke another one under "
            f"{self.evaluation.title_of(self.attack)} at eps {numbers.budget(self.eps)}."
        )
        by_source, by_target = _means(others, 0), _means(others, 1)
        if len(by_source) < 3:
            return text
        threat, shield = min(by_source, key=lambda name: by_source[name]), max(by_target, key=lambda name: by_target[name])
        return (
            f"{text} Inputs made on {threat} transfer best (the others stay right on {numbers.percent(by_source[threat])} %); "
            f"{shield} withstands the others' inputs best ({numbers.percent(by_target[shield])} %)."
        )

    @cached_property
    def figure(self) -> Figure:
        """The matrix as a heat map: source by target."""
        names = self.names
        rows = [
            {"source": source, "target": target, **held._asdict(), "tried": self.counts[source, target][0]}
            for source, target in product(names, names)
            if (held := self.accuracy(source, target))
        ]
        above = alt.Axis(orient="top", labelAngle=-60, labelLimit=150, grid=False)
        base = alt.Chart(pd.DataFrame(rows)).encode(
            x=alt.X("target:N", sort=names, title="Tried on", axis=above),
            y=alt.Y("source:N", sort=names, title="Made on", axis=alt.Axis(labelLimit=150)),
            tooltip=[
                *encodings.tooltips(source="Made on", target="Tried on"),
                *encodings.accuracy_tooltips(),
                alt.Tooltip("tried:Q", title="Inputs"),
            ],
        )
        shade = alt.Color("value:Q", scale=alt.Scale(scheme="blues", domain=[0, 1]), legend=None)
        ink = alt.condition("datum.value > 0.55", alt.value("#ffffff"), alt.value("#1c2430"))
        squares = base.mark_rect(stroke="#8b94a1", strokeWidth=0.5).encode(color=shade)
        shares = base.mark_text(fontSize=11).encode(text=alt.Text("value:Q", format=".0%"), color=ink)
        return Figure(
            name=f"transfer-{self.evaluation.slug}",
            title="What breaks one network, tried on the others",
            description=f"Accuracy of each network (columns) on the inputs that broke each network (rows), {_made(self)}. "
            + self.statement,
            caption=f"Accuracy of the network in the column on the inputs that broke the one in the row, {_made(self)}; only "
            "examples count that the column's network gets right when clean. On the diagonal every input breaks its own network.",
            series=(),
            panels=(Panel(alt.LayerChart(layer=[squares, shares])),),
            height=34 * len(names),
        )

    @cached_property
    def table(self) -> Table:
        """The matrix as a table, with the number of inputs and intervals."""
        names = self.names
        series = {entry.name: entry.series for entry in self.evaluation.entries}
        return Table(
            name=f"transfer-{self.evaluation.slug}",
            caption=f"Accuracy, %, on what broke another network, {_made(self)}; below, 95 % intervals and how many inputs.",
            columns=(Column("Made on", numeric=False), *(Column(name, "Tried on", series=series[name]) for name in names)),
            rows=tuple(
                (Cell(source, series=series[source]), *(_cell(self, source, target) for target in names)) for source in names
            ),
            notes=(
                "The column's network gets all of these examples right when they are clean. On the diagonal stand the inputs that "
                "broke the network itself.",
            ),
        )


def _cell(transfers: Transfers, source: str, target: str) -> Cell:
    held = transfers.accuracy(source, target)
    if held is None:
        return Cell("–")
    tried = transfers.counts[source, target][0]
    return percent_cell(held.value, f"{numbers.interval(held.low, held.high)}, {numbers.count(tried)}")


def _means(accuracies: dict[tuple[str, str], float], place: int) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for pair, value in accuracies.items():
        values.setdefault(pair[place], []).append(value)
    return {name: sum(shares) / len(shares) for name, shares in values.items()}


def _made(transfers: Transfers) -> str:
    return f"made by {transfers.evaluation.title_of(transfers.attack)} at {transfers.evaluation.threat}"


def _fresh(evaluation: Evaluation, entry: Entry) -> pd.DataFrame | None:
    """Return a run's stored transfers that belong to the evaluation."""
    result = evaluation.results[entry.name]
    if result.transfer is None or not set(TRANSFER) <= set(result.transfer.columns):
        return None
    frame, hashes = result.transfer, result.record.hashes
    same = (frame["target_weights"] == hashes["weights"]) & (frame["data"] == hashes["data"])
    return frame[same & (frame["attack_hash"] == hashes["attack"])]
