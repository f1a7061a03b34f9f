"""A section of a report shows what it finds in the evidence as a statement, figures and tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.pictures import Picture
from robust_lowrank.reporting.formats.tables import Table


class Section:
    """A part of a report; `registry` finds the classes that say which `report` shows them."""

    report: ClassVar[str]  # "comparison" or "condition"
    place: ClassVar[int]  # the sections of a report stand in ascending order

    slug: str  # its anchor, unique on the page
    heading: str
    template = "section"  # in templates/sections
    folded = False  # whether the page shows its title and statement alone until it is asked for more
    leading = False  # whether its figures lead the list of files
    notes: tuple[str, ...] = ()  # what a reader has to know
    pictures: tuple[Picture, ...] = ()

    @classmethod
    def find(cls, evidence: Evidence) -> Sequence[Self]:
        """Return the sections that the evidence allows, none where nothing is known."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """The title above it."""
        return self.heading

    @property
    def entry(self) -> str:
        """Its entry in the contents."""
        return self.heading

    @property
    def statement(self) -> str:
        """The result in words."""
        return ""

    @cached_property
    def figure(self) -> Figure | None:
        """Its only figure."""
        return None

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """Its figures, in order."""
        return (self.figure,) if self.figure else ()

    @cached_property
    def table(self) -> Table | None:
        """Its only table."""
        return None

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """Its tables, in order."""
        return (self.table,) if self.table else ()


@dataclass(frozen=True)
class EvaluationSection(Section):
    """A section on one evaluation."""

    evaluation: Evaluation

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> Self | None:
        """Return the section on an evaluation, or None where there is nothing to show."""
        raise NotImplementedError

    @classmethod
    def find(cls, evidence: Evidence) -> Sequence[Self]:
        """Return the section on the first evaluation that has one."""
        return next(([section] for evaluation in evidence.evaluations if (section := cls.from_evaluation(evaluation))), [])

    @property
    def title(self) -> str:
        """The heading with the evaluation's title."""
        return f"{self.heading}: {self.evaluation.title}"
