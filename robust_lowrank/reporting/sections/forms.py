"""The section on deployed forms says which verdicts on a network are others where it is deployed."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

from robust_lowrank import numbers
from robust_lowrank.records.deployed import Deployed, deployed_forms
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, percent_cell
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import wilson


@dataclass(frozen=True)
class Forms(EvaluationSection):
    """The forms of an evaluation's networks, each beside the network that was trained."""

    forms: tuple[tuple[Entry, Deployed], ...]
    report = "comparison"
    place = 55
    slug = "forms"
    heading = "Deployed forms"
    folded = True

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation) -> Self | None:
        """Return what is known of the forms of an evaluation's networks; None where none was attacked."""
        forms = tuple(
            (entry, form) for entry in evaluation.entries for form in deployed_forms(entry.run, evaluation.results[entry.name])
        )
        return cls(evaluation, forms) if forms else None

    @property
    def statement(self) -> str:
        """Say how many verdicts are others at the headline eps, and where most are."""
        eps = self.evaluation.headline_eps
        counts = {
            f"{form.form} of {entry.name}": (len(form.lost(eps)), len(form.gained(eps)), len(form.held(eps)))
            for entry, form in self.forms
        }
        same = [name for name, (lost, gained, _) in counts.items() if not lost + gained]
        others = sorted(((name, *each) for name, each in counts.items() if name not in same), key=lambda row: -(row[1] + row[2]))
        parts = [f"{name}: {lost} lost and {gained} gained of {numbers.count(total)}" for name, lost, gained, total in others]
        text = f"At {self.evaluation.threat} " + (
            f"verdicts differ from those on the trained network for {'; '.join(parts)}." if parts else "no verdict differs."
        )
        if not same or not parts:
            return text
        return f"{text} {'All are' if len(same) > 1 else 'It is'} the same for {numbers.listing(same)}."

    @cached_property
    def table(self) -> Table:
        """A row a form and eps: its accuracy, the trained network's, and the examples that it alone lost or gained."""
        evaluation = self.evaluation
        budgets = (0.0, *evaluation.eps)
        return Table(
            name=f"forms-{evaluation.slug}",
            caption=f"Deployed forms beside the trained networks, {evaluation.title}: accuracy and verdicts that differ.",
            columns=(
                Column("Network", numeric=False),
                Column("Form", numeric=False),
                Column("Eps"),
                Column("Form", "Accuracy, %"),
                Column("Trained", "Accuracy, %"),
                Column("Lost", "Verdicts that differ"),
                Column("Gained", "Verdicts that differ"),
                Column("Examples", numeric=False),
                Column("Attacked", numeric=False),
            ),
            rows=tuple(_row(entry, form, eps) for entry, form in self.forms for eps in budgets),
            notes=(
                "Every input that breaks the form or the trained network is tried on the other one too, and counts for both. Lost: "
                "the trained network alone is right; gained: the form alone. 95 % Wilson intervals below.",
                "A form without gradients is attacked by what PGD finds on the trained network, and by Square on what that leaves: "
                "the weaker attack, to which what it gains may be due.",
            ),
        )


def _row(entry: Entry, form: Deployed, eps: float) -> tuple[Cell, ...]:
    held = form.held(eps)
    lost, gained = form.lost(eps), form.gained(eps)
    return (
        Cell(entry.name, series=entry.series),
        Cell(form.form),
        Cell(numbers.budget(eps) if eps else "clean", value=eps),
        _share(int(held["form"].sum()), len(held)),
        _share(int(held["trained"].sum()), len(held)),
        Cell(str(len(lost)), value=len(lost)),
        Cell(str(len(gained)), value=len(gained)),
        Cell(", ".join(map(str, [*lost, *gained])) or "–"),
        Cell(form.attacked),
    )


def _share(right: int, total: int) -> Cell:
    interval = wilson(right, total)
    return percent_cell(interval.value, numbers.interval(interval.low, interval.high))
