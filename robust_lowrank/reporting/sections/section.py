"""The protocol of a section: what was found in the evidence, shown as a statement, figures and tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.pictures import Picture
from robust_lowrank.reporting.formats.tables import Table


class Section:
    """A part of a report.

    Its file has a function `find` of the evidence that returns the sections there are to show, none where nothing is known.
    """

    slug: str  # its anchor, unique on the page
    heading: str
    template = "section"  # in templates/sections
    leading = False  # whether its figures lead the list of files
    notes: tuple[str, ...] = ()  # what a reader has to know
    pictures: tuple[Picture, ...] = ()

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.heading

    @property
    def statement(self) -> str:
        """What there is to see, in words."""
        return ""

    @cached_property
    def figure(self) -> Figure | None:
        """Its figure, where it has one alone."""
        return None

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """Its figures, in order."""
        return (self.figure,) if self.figure else ()

    @cached_property
    def table(self) -> Table | None:
        """Its table, where it has one alone."""
        return None

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Its tables, in order."""
        return (self.table,) if self.table else ()


@dataclass(frozen=True)
class EvaluationSection(Section):
    """A section on one evaluation."""

    evaluation: Evaluation

    @property
    def title(self) -> str:
        """What stands above it, with the evaluation."""
        return f"{self.heading}: {self.evaluation.title}"


_Found = TypeVar("_Found")


def first(evaluations: Sequence[Evaluation], find: Callable[[Evaluation], _Found | None]) -> list[_Found]:
    """Return what the first evaluation has of which anything is found, alone."""
    return next(([section] for evaluation in evaluations if (section := find(evaluation)) is not None), [])
