"""The comparison section shows one evaluation: the accuracy under each attack, the paired tests and the audit."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from robust_lowrank import numbers
from robust_lowrank.records import AuditFinding
from robust_lowrank.reporting.comparing.beside import beside, beside_runs
from robust_lowrank.reporting.comparing.comparisons import MANY, AllTests, Comparison, SeedComparison, Tested, correction
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import WORST, Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, accuracy_cell, count_cell, numeric, words
from robust_lowrank.reporting.sections import accuracy
from robust_lowrank.reporting.sections.overview import heading_cell, overview_table
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import Interval

_COLUMNS = 3  # of further evaluations, in the first one's table
_MARKS = {"pass": "✓", "warn": "!", "fail": "✕"}
_OPEN = (
    "Unresolved examples count against each difference: the smallest that they allow is stated and tested; the interval covers all."
)
_FIRST = f"Of more than {MANY} methods each is tested against the first alone: of all pairs nothing would be left after correction."
_SEEDS = (
    "A run is one number here, and the runs of a method are taken as draws from a normal distribution. A method with several "
    "seeds is called better than another one where this test and the paired tests of all their runs support it, "
    "or it is said which does."
)


@dataclass(frozen=True)
class ComparisonSection(EvaluationSection):
    """The networks of one evaluation side by side, with those on the same data that did not take part."""

    slug: str
    entries: Sequence[Entry]
    paired: AllTests
    others: Sequence[Evaluation] = ()  # whose outcomes stand in columns of the first table
    report = "comparison"
    place = 20
    heading = "Comparison"
    template = "comparison"
    leading = True

    @property
    def folded(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether it is a further evaluation, of which the first one's table has the outcome."""
        return self.slug != "section-1"

    @property
    def entry(self) -> str:
        """The heading, or the title of a further evaluation."""
        return self.evaluation.title if self.folded else self.heading

    @property
    def statement(self) -> str:
        """What each method holds in a further evaluation, at its headline eps."""
        if not self.folded:
            return ""
        evaluation, eps = self.evaluation, self.evaluation.headline_eps
        means = [(name, mean) for name in evaluation.series if (mean := evaluation.mean(name, WORST, eps))]
        held = numbers.listing([f"{name} {numbers.accuracy(mean.value, mean.most)} %" for name, mean in means])
        return f"At {evaluation.threat}, n = {numbers.count(evaluation.examples)}: {held}." if means else ""

    @property
    def verdict(self) -> str:
        """The outcome of the audit in a line."""
        findings = [finding for entry in self.evaluation.entries for finding in self.evaluation.results[entry.name].record.audit]
        checks = {finding.check for finding in findings}
        bad = {finding.check for finding in findings if finding.status != "pass"}
        return f"Audit: {len(checks) - len(bad)} of {numbers.times(len(checks), 'check')} pass for every network"

    @classmethod
    def find(cls, evidence: Evidence) -> list[Self]:
        """Return every evaluation, each with the runs on its data."""
        first, *further = evidence.evaluations or (None,)
        on_same = tuple(other for other in further if other.data == first.data)[:_COLUMNS] if first else ()
        return [
            cls(
                evaluation,
                f"section-{place}",
                _on_data(evidence, evaluation),
                evidence.tests(evaluation),
                () if place > 1 else on_same,
            )
            for place, evaluation in enumerate(evidence.evaluations, start=1)
        ]

    @cached_property
    def figures(self) -> tuple[Figure, ...]:
        """Accuracy against the budget, and under each attack."""
        return tuple(figure for figure in (accuracy.robustness(self.evaluation), accuracy.attacks(self.evaluation)) if figure)

    @cached_property
    def overview(self) -> Table:
        """Size, accuracies and conditioning."""
        return overview_table(self.entries, self.evaluation, self.paired, self.others)

    @cached_property
    def by_attack(self) -> Table:
        """Accuracy under each attack at each eps, a row a run."""
        evaluation = self.evaluation
        attacks, budgets = evaluation.attacks, evaluation.eps
        measured = [(attack, eps) for attack in attacks for eps in budgets if attack in evaluation.attacks_at(eps)]
        return Table(
            name=f"attacks-{evaluation.slug}",
            caption=f"Accuracy under each attack of {evaluation.rules}, n = {numbers.count(evaluation.examples)}, "
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
        """The paired tests at each budget that has any, and those over seeds."""
        return [
            *(_paired_tests(self.evaluation, eps, self.paired) for eps in (0.0, *self.evaluation.eps) if self.paired.at(eps)),
            *((_tests_over_seeds(self.evaluation, self.paired),) if self.paired.seeds else ()),
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


def _paired_tests(evaluation: Evaluation, eps: float, tests: AllTests) -> Table:
    """Return every paired test at one budget, most certain first."""
    comparisons = tests.at(eps)
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
        rows=tuple(_test_row(c, beside_runs(tests, c)) for c in sorted(comparisons, key=lambda c: c.adjusted)),
        notes=(*((_OPEN,) if eps and evaluation.unresolved else ()), *((_FIRST,) if len(evaluation.series) > MANY else ())),
    )


def _test_row(comparison: Comparison, also: str) -> tuple[Cell, ...]:
    better, difference = comparison.better, comparison.difference
    return (
        Cell(f"{comparison.first.name} – {comparison.second.name}", concerns=(comparison.first.series, comparison.second.series)),
        _difference_cell(difference),
        count_cell(comparison.only_first),
        count_cell(comparison.only_second),
        *_p_cells(comparison),
        _verdict_cell(better.name if better else None, also),
    )


def _tests_over_seeds(evaluation: Evaluation, tests: AllTests) -> Table:
    """Return every test of two methods over their seeds, most certain first."""
    return Table(
        name=f"tests-{evaluation.slug}-seeds",
        caption="Tests over seeds: is one method better on average over its trainings? Paired t-tests where both have the same "
        f"seeds, otherwise Welch's; {correction(tests.seeds[0].family)}; 95 % t-intervals below the differences.",
        columns=(*words("Compared", "At eps", "Test"), *numeric("Difference, points", "p", "p, corrected"), *words("Verdict")),
        rows=tuple(_seeds_row(evaluation, tests, test) for test in sorted(tests.seeds, key=lambda test: test.adjusted)),
        notes=(_SEEDS, *((_FIRST,) if len(evaluation.series) > MANY else ())),
    )


def _seeds_row(evaluation: Evaluation, tests: AllTests, test: SeedComparison) -> tuple[Cell, ...]:
    better = test.better
    other = test.second if better == test.first else test.first
    also = beside(evaluation, tests, test.eps, better, other, "the other's") if better else ""
    return (
        Cell(f"{test.first} – {test.second}", concerns=(test.first, test.second)),
        Cell(numbers.budget(test.eps) if test.eps else "clean", value=test.eps),
        Cell(test.title),
        _difference_cell(test.difference),
        *_p_cells(test),
        _verdict_cell(better, also),
    )


def _difference_cell(difference: Interval) -> Cell:
    interval = f"[{numbers.signed(difference.low)}, {numbers.signed(difference.high)}]"
    return Cell(numbers.signed(difference.value), interval, value=difference.value)


def _p_cells(test: Tested) -> tuple[Cell, Cell]:
    first, second = (Cell(numbers.p_value(p).removeprefix("= "), value=p) for p in (test.p, test.adjusted))
    return first, second


def _verdict_cell(better: str | None, also: str) -> Cell:
    return Cell(f"{better} is better" if better else "not distinguishable", also, leads=better is not None)


def _audit_cell(finding: AuditFinding | None) -> Cell:
    return Cell(f"{_MARKS[finding.status]} {finding.status}", status=finding.status) if finding else Cell("–")
