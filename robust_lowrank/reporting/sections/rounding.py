"""The section on rounding says how many verdicts depend on how the same numbers are summed: the flip band."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import CLEAN, Evaluation
from robust_lowrank.reporting.formats.tables import Cell, Table, count_cell, numeric, percent_cell, words
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import wilson

_NAMED = 12  # fragile examples in a cell


@dataclass(frozen=True)
class Rounding(EvaluationSection):
    """The verdicts of an evaluation's networks, formed again in other ways."""

    found: tuple[tuple[Entry, pd.DataFrame], ...]
    report = "comparison"
    place = 57
    slug = "rounding"
    heading = "Verdicts that rounding changes"

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> Self | None:
        """Return what is stored of an evaluation's networks; None where nothing is."""
        stored = ((entry, evaluation.results[entry.name].rounding) for entry in evaluation.entries)
        found = tuple((entry, table[table["tried"] > 0]) for entry, table in stored if table is not None and table["tried"].any())
        return cls(evaluation, found) if found else None

    @property
    def statement(self) -> str:
        """Say for each network how far its verdicts change at most, and in which way."""
        parts = []
        for entry, table in self.found:
            shares = {str(way): sum(map(len, part["changed"])) / int(part["tried"].sum()) for way, part in table.groupby("way")}
            way = max(shares, key=lambda way: shares[way])
            parts.append(f"{entry.name} up to {numbers.percent(shares[way])} % ({way})" if shares[way] else f"{entry.name} none")
        return f"Verdicts that change with how the same numbers are computed: {'; '.join(parts)}."

    @cached_property
    def table(self) -> Table:
        """A row a network and way: how many verdicts change, and of which examples."""
        return Table(
            name=f"rounding-{self.evaluation.slug}",
            caption=f"Verdicts that change with rounding alone, {self.evaluation.title}: on clean examples and on every "
            "stored input of its attacks; 95 % Wilson intervals below.",
            columns=(*words("Network", "Computed"), *numeric("Verdicts", "Changed", "Share, %"), *words("Fragile examples")),
            rows=tuple(
                self._row(entry, str(way), part) for entry, table in self.found for way, part in table.groupby("way", sort=False)
            ),
            notes=(
                "A verdict says whether the network is right on an input. Evaluations compute in batches of one size, so that the "
                "order and the neighbours of an example change nothing there. A difference between two networks that is no larger "
                "than their shares here may be one of arithmetic.",
            ),
        )

    def _row(self, entry: Entry, way: str, part: pd.DataFrame) -> tuple[Cell, ...]:
        tried, changed = int(part["tried"].sum()), sum(map(len, part["changed"]))
        share = wilson(changed, tried)
        return (
            Cell(entry.name, series=entry.series),
            Cell(way),
            count_cell(tried),
            count_cell(changed),
            percent_cell(share.value, numbers.interval(share.low, share.high)),
            Cell(self._fragile(part)),
        )

    def _fragile(self, part: pd.DataFrame) -> str:
        """List the examples, each with the attack and eps at which its verdict changes first."""
        where: dict[float, str] = {}
        for attack, eps, examples in part[["attack", "eps", "changed"]].itertuples(index=False, name=None):
            place = "clean" if attack == CLEAN else f"{self.evaluation.title_of(str(attack))} at {numbers.budget(float(eps))}"
            for example in examples:
                where.setdefault(float(example), place)
        named = [f"{example:.0f} ({where[example]})" for example in sorted(where)]
        rest = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        return ", ".join(named[:_NAMED]) + rest if named else "–"
