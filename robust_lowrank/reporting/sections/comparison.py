"""The tables of the comparison report."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from robust_lowrank.records import AuditFinding
from robust_lowrank.reporting.comparing.comparisons import Comparison, leaders
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation
from robust_lowrank.reporting.comparing.spectra import conditioning
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, accuracy_cell, count_cell, percent_cell, quantity_cell

Tests = dict[float, tuple[Comparison, ...]]  # by eps, 0 for clean accuracy

_MARKS = {"pass": "✓", "warn": "!", "fail": "✕"}
_LEADERS = (
    "★: the best of its column and every method that the paired test cannot tell from it. "
    "A column without ★ holds no difference that these examples support."
)
_SEEDS = "Mean of the seeds: ± is the standard deviation between them, below it the 95 % t-interval of the mean."
_UNRESOLVED = "Ranges: for some examples the budget ran out before a verdict; from all of them broken to all of them robust."
_OPEN = (
    "Unresolved examples count against each difference: the smallest that they allow is stated and tested; the interval covers all."
)

_CONDITIONING = (
    "Condition number: of the worst layer after training. Certificate quantity: the product over all layers. "
    "Below each: over the compressed layers alone."
)


def overview(entries: Sequence[Entry], evaluation: Evaluation | None, tests: Tests) -> Table:
    """Size, accuracies with intervals and conditioning, a row a run; `evaluation` is None where no run was attacked."""
    budgets = evaluation.eps if evaluation else []
    group = f"Worst case, %, at {numbers.norm(evaluation.norm)} eps" if evaluation else ""
    columns = [
        Column("Method", numeric=False),
        Column("Parameters"),
        Column("Removed, %"),
        Column("Clean accuracy, %" if evaluation else "Test accuracy, %"),
        *(Column(numbers.budget(eps), group) for eps in budgets),
        Column("largest", "Condition number"),
        Column("product", "Certificate quantity"),
    ]
    best = {eps: leaders(evaluation, eps, found) for eps, found in tests.items()} if evaluation else {}
    return Table(
        name=f"comparison-{evaluation.slug}" if evaluation else "comparison",
        caption=_overview_caption(evaluation),
        columns=tuple(columns),
        rows=tuple(_overview_rows(entries, evaluation, best)),
        notes=(
            *((_LEADERS,) if any(best.values()) else ()),
            *((_SEEDS,) if evaluation and len(evaluation.entries) > len(evaluation.series) else ()),
            *((_UNRESOLVED,) if evaluation and evaluation.unresolved else ()),
            *_size_notes(entries),
        ),
    )


def by_attack(evaluation: Evaluation) -> Table:
    """Accuracy under each attack at each eps, a row a run."""
    columns = [Column("Method", numeric=False)]
    measured = [(attack, eps) for attack in evaluation.attacks for eps in evaluation.eps if attack in evaluation.attacks_at(eps)]
    columns += [Column(numbers.budget(eps), f"{numbers.attack(attack)}, %, at eps") for attack, eps in measured]
    return Table(
        name=f"attacks-{evaluation.slug}",
        caption=f"Accuracy under each attack of {evaluation.title}, n = {numbers.count(evaluation.examples)}, "
        f"{evaluation.interval} below.",
        columns=tuple(columns),
        rows=tuple(
            (_heading(entry), *(accuracy_cell(evaluation.accuracy(entry, attack, eps)) for attack, eps in measured))
            for entry in evaluation.entries
        ),
    )


def paired_tests(evaluation: Evaluation, eps: float, comparisons: Sequence[Comparison]) -> Table:
    """Every paired test at one budget, most certain first."""
    what = f"{numbers.norm(evaluation.norm)} eps {numbers.budget(eps)}, worst case over the attacks" if eps else "clean accuracy"
    return Table(
        name=f"tests-{evaluation.slug}-{eps:g}",
        caption=f"Paired tests at {what}: exact McNemar, n = {numbers.count(evaluation.examples)}, "
        f"Holm-corrected over {_times(len(comparisons), 'comparison')}; 95 % intervals (paired bootstrap) below the differences.",
        columns=(
            Column("Compared", numeric=False),
            Column("Difference, points"),
            Column("Only the first right"),
            Column("Only the second right"),
            Column("p"),
            Column("p, corrected"),
            Column("Verdict", numeric=False),
        ),
        rows=tuple(_test_row(c) for c in sorted(comparisons, key=lambda c: c.adjusted)),
        notes=(_OPEN,) if eps and evaluation.unresolved else (),
    )


def audit(evaluation: Evaluation) -> Table:
    """Every check of every evaluation: a row a check, a column a run."""
    found = {
        entry.name: {finding.check: finding for finding in evaluation.results[entry.name].record.audit}
        for entry in evaluation.entries
    }
    checks = list(dict.fromkeys(check for findings in found.values() for check in findings))
    return Table(
        name=f"audit-{evaluation.slug}",
        caption=f"Audit of the evaluation with {evaluation.title}: ✓ pass, ! warning, ✕ failure.",
        columns=(
            Column("Check", numeric=False),
            *(Column(entry.name, numeric=False, series=entry.series) for entry in evaluation.entries),
        ),
        rows=tuple((Cell(check), *(_audit_cell(found[entry.name].get(check)) for entry in evaluation.entries)) for check in checks),
    )


def audit_remarks(evaluation: Evaluation) -> list[tuple[AuditFinding, str]]:
    """Return the warnings and failures, each once with the runs that it concerns, failures first."""
    remarks: dict[str, tuple[AuditFinding, list[str]]] = {}
    for entry in evaluation.entries:
        for finding in evaluation.results[entry.name].record.audit:
            if finding.status != "pass":
                remarks.setdefault(finding.model_dump_json(), (finding, []))[1].append(entry.name)
    everyone = len(evaluation.entries)
    named = [
        (finding, "every network" if len(names) == everyone > 1 else numbers.listing(names)) for finding, names in remarks.values()
    ]
    return sorted(named, key=lambda remark: remark[0].status != "fail")


def _overview_rows(
    entries: Sequence[Entry], evaluation: Evaluation | None, best: dict[float, set[str]]
) -> Iterator[tuple[Cell, ...]]:
    for series, members in groupby(entries, key=lambda entry: entry.series):
        yield from (_overview_row(entry, evaluation, best) for entry in members)
        spread = evaluation.spread(series, CLEAN) if evaluation else None
        if evaluation and spread and spread.seeds > 1:
            accuracies = [
                _spread_cell(evaluation, series, CLEAN),
                *(_spread_cell(evaluation, series, WORST, eps) for eps in evaluation.eps),
            ]
            heading, none = Cell(series, f"mean of {spread.seeds} seeds", series=series), Cell("")
            yield (heading, none, none, *accuracies, none, none)


def _spread_cell(evaluation: Evaluation, series: str, attack: str, eps: float = 0.0) -> Cell:
    mean, spread = evaluation.mean(series, attack, eps), evaluation.spread(series, attack, eps)
    if mean is None or spread is None or spread.deviation is None or spread.interval is None:
        return Cell("–")
    text = f"{numbers.accuracy(mean.value, mean.most)} ± {numbers.percent(spread.deviation)}"
    return Cell(text, numbers.interval(max(spread.interval.low, 0), min(spread.interval.high, 1)), value=mean.value)


def _overview_row(entry: Entry, evaluation: Evaluation | None, best: dict[float, set[str]]) -> tuple[Cell, ...]:
    parameters = entry.run.record.parameters
    found = conditioning(entry)
    row = [_heading(entry)]
    if parameters.total:
        share = f"{numbers.percent(parameters.inference / parameters.dense)} % of dense"
        row += [count_cell(parameters.inference, share), percent_cell(parameters.removed)]
    else:
        row += [Cell("–"), Cell("–")]
    if evaluation is None:
        row.append(percent_cell(entry.run.record.test_accuracy))
    else:
        row.append(accuracy_cell(evaluation.accuracy(entry, CLEAN), leads=entry.series in best.get(0, ()), missing="not attacked"))
        row += [
            accuracy_cell(evaluation.accuracy(entry, WORST, eps), leads=entry.series in best.get(eps, ()), missing="not attacked")
            for eps in evaluation.eps
        ]
    if found is None:
        return (*row, Cell("–"), Cell("–"))
    compressed = found.factored_layers and found.factored_layers < found.layers
    return (
        *row,
        quantity_cell(found.worst, f"compressed {numbers.quantity(found.factored_worst)}" if compressed else ""),
        quantity_cell(found.product, f"compressed {numbers.quantity(found.factored_product)}" if compressed else ""),
    )


def _overview_caption(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "Not attacked: accuracy on the whole test set, without an interval."
    return (
        f"{evaluation.title} on {evaluation.data}: n = {numbers.count(evaluation.examples)} test examples, the same for every run; "
        f"{evaluation.interval} intervals below each accuracy. Worst case: right under {evaluation.coverage}."
    )


def _size_notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    compressed = any(entry.run.record.parameters.removed for entry in entries)
    size = (
        "Parameters: as stored for inference. Removed: how many weights fewer the compressed layers have as trained, with every "
        "factor: 1 − (r(n+m) + r²) / nm with U, S and V, without r² where there is no S."
    )
    closed = [entry.name for entry in entries if not entry.run.record.parameters.total]
    conditioned = any(conditioning(entry) for entry in entries)
    infinite = any((c := conditioning(entry)) and math.isinf(c.product) for entry in entries)
    return (
        *((size,) if compressed else ()),
        *((f"–: {numbers.listing(closed)} shows neither its layers nor its parameters.",) if len(closed) == 1 else ()),
        *((f"–: {numbers.listing(closed)} show neither their layers nor their parameters.",) if len(closed) > 1 else ()),
        *((_CONDITIONING,) if conditioned else ()),
        *(("∞: a layer has a singular value of zero.",) if infinite else ()),
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
    if finding is None:
        return Cell("–", status="")
    return Cell(f"{_MARKS[finding.status]} {finding.status}", status=finding.status)


def _heading(entry: Entry) -> Cell:
    record = entry.run.record
    unfinished = "" if record.status == "complete" else f"unfinished, {_times(record.epochs_done, 'epoch')}"
    return Cell(entry.series, ", ".join(filter(None, (entry.variant, unfinished))), series=entry.series)


def _times(number: int, noun: str) -> str:
    return f"{numbers.count(number)} {noun}" + ("" if number == 1 else "s")
