"""The comparison section shows one evaluation: the accuracy under each attack, the paired tests and the audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from robust_lowrank import numbers
from robust_lowrank.records import AuditFinding
from robust_lowrank.reporting.comparing.comparisons import Comparison, Tests, correction
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, accuracy_cell, count_cell, numeric, words
from robust_lowrank.reporting.sections import accuracy
from robust_lowrank.reporting.sections.overview import heading_cell, overview_table
from robust_lowrank.reporting.sections.section import EvaluationSection

_MARKS = {"pass": "✓", "warn": "!", "fail": "✕"}
_OPEN = (
    "Unresolved examples count against each difference: the smallest that they allow is stated and tested; the interval covers all."
)


@dataclass(frozen=True)
class ComparisonSection(EvaluationSection):
    """The networks of one evaluation side by side, with those on the same data that did not take part."""

    slug: str
    entries: Sequence[Entry]
    paired: Tests
    report = "comparison"
    place = 20
    heading = "Comparison"
    template = "comparison"
    leading = True

    @classmethod
    def find(cls, evidence: Evidence) -> list[Self]:
        """Return every evaluation, each with the runs on its data."""
        return [
            cls(evaluation, f"section-{place}", _on_data(evidence, evaluation), evidence.tests(evaluation))
            for place, evaluation in enumerate(evidence.evaluations, start=1)
        ]

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """Accuracy against the budget, and under each attack."""
        return tuple(figure for figure in (accuracy.robustness(self.evaluation), accuracy.attacks(self.evaluation)) if figure)

    @cached_property
    def overview(self) -> Table:
        """Size, accuracies and conditioning."""
        return overview_table(self.entries, self.evaluation, self.paired)

    @cached_property
    def by_attack(self) -> Table:
        """Accuracy under each attack at each eps, a row a run."""
        evaluation = self.evaluation
        attacks, budgets = evaluation.attacks, evaluation.eps
        measured = [(attack, eps) for attack in attacks for eps in budgets if attack in evaluation.attacks_at(eps)]
        return Table(
            name=f"attacks-{evaluation.slug}",
            caption=f"Accuracy under each attack of {evaluation.title}, n = {numbers.count(evaluation.examples)}, "
            f"{evaluation.interval} below.",
            columns=(
                *words("Method"),
                *(Column(numbers.budget(eps), f"{evaluation.title_of(attack)}, %, at eps") for attack, eps in measured),
            ),
            rows=tuple(
                (heading_cell(entry), *(accuracy_cell(evaluation.accuracy(entry, attack, eps)) for attack, eps in measured))
                for entry in evaluation.entries
            ),
        )

    @cached_property
    def tests(self) -> list[Table]:
        """The paired tests at each budget that has any."""
        return [
            _paired_tests(self.evaluation, eps, comparisons)
            for eps in (0.0, *self.evaluation.eps)
            if (comparisons := self.paired.at(eps))
        ]

    @cached_property
    def audit(self) -> Table:
        """Every check of the audit: a row a check, a column a run."""
        evaluation = self.evaluation
        records = {entry.name: evaluation.results[entry.name].record for entry in evaluation.entries}
        findings = {name: {finding.check: finding for finding in record.audit} for name, record in records.items()}
        checks = list(dict.fromkeys(check for by_check in findings.values() for check in by_check))
        return Table(
            name=f"audit-{evaluation.slug}",
            caption=f"Audit of the evaluation with {evaluation.title}: ✓ pass, ! warning, ✕ failure.",
            columns=(
                *words("Check"),
                *(Column(entry.name, numeric=False, series=entry.series) for entry in evaluation.entries),
            ),
            rows=tuple((Cell(check), *(_audit_cell(findings[name].get(check)) for name in findings)) for check in checks),
        )

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """All of them."""
        return (self.overview, self.by_attack, *self.tests, self.audit)

    @cached_property
    def remarks(self) -> list[tuple[AuditFinding, str]]:
        """The warnings and failures of the audit, each once with the runs that it concerns, failures first."""
        remarks: dict[str, tuple[AuditFinding, list[str]]] = {}
        for entry in self.evaluation.entries:
            for finding in self.evaluation.results[entry.name].record.audit:
                if finding.status != "pass":
                    remarks.setdefault(finding.model_dump_json(), (finding, []))[1].append(entry.name)
        concerned = [(finding, self.evaluation.listing(names)) for finding, names in remarks.values()]
        return sorted(concerned, key=lambda remark: remark[0].status != "fail")


def _on_data(evidence: Evidence, evaluation: Evaluation) -> list[Entry]:
    attacked = [entry.name for entry in evaluation.entries]
    return [entry for entry in evidence.entries if entry.name in attacked or entry.run.record.data == evaluation.data]


def _paired_tests(evaluation: Evaluation, eps: float, comparisons: Sequence[Comparison]) -> Table:
    """Return every paired test at one budget, most certain first."""
    what = f"{numbers.norm(evaluation.norm)} eps {numbers.budget(eps)}, worst case over the attacks" if eps else "clean accuracy"
    return Table(
        name=f"tests-{evaluation.slug}-{eps:g}",
        caption=f"Paired tests at {what}: exact McNemar, n = {numbers.count(evaluation.examples)}, "
        f"{correction(comparisons[0].family)}; "
        "95 % intervals (paired bootstrap) below the differences.",
        columns=(
            *words("Compared"),
            *numeric("Difference, points", "Only the first right", "Only the second right", "p", "p, corrected"),
            *words("Verdict"),
        ),
        rows=tuple(_test_row(c) for c in sorted(comparisons, key=lambda c: c.adjusted)),
        notes=(_OPEN,) if eps and evaluation.unresolved else (),
    )


def _test_row(comparison: Comparison) -> tuple[Cell, ...]:
    better, difference = comparison.better, comparison.difference
    return (
        Cell(f"{comparison.first.name} – {comparison.second.name}", concerns=(comparison.first.series, comparison.second.series)),
        Cell(
            numbers.signed(difference.value),
            f"[{numbers.signed(difference.low)}, {numbers.signed(difference.high)}]",
            value=difference.value,
        ),
        count_cell(comparison.only_first),
        count_cell(comparison.only_second),
        Cell(numbers.p_value(comparison.p).removeprefix("= "), value=comparison.p),
        Cell(numbers.p_value(comparison.adjusted).removeprefix("= "), value=comparison.adjusted),
        Cell(f"{better.name} is better" if better else "not distinguishable", leads=better is not None),
    )


def _audit_cell(finding: AuditFinding | None) -> Cell:
    return Cell(f"{_MARKS[finding.status]} {finding.status}", status=finding.status) if finding else Cell("–")
