"""The tables of the comparison report."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from robust_lowrank.records import AuditFinding
from robust_lowrank.reporting import formats
from robust_lowrank.reporting.comparisons import Comparison, leaders
from robust_lowrank.reporting.entries import Entry
from robust_lowrank.reporting.spectra import conditioning
from robust_lowrank.reporting.tables import Cell, Column, Table, accuracy_cell, count_cell, percent_cell, quantity_cell
from robust_lowrank.reporting.trials import CLEAN, WORST, Trial

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


def overview(entries: Sequence[Entry], trial: Trial | None, tests: Tests) -> Table:
    """Size, accuracies with intervals and conditioning, a row a run; `trial` is None where no run was attacked."""
    budgets = trial.eps if trial else []
    group = f"Worst case, %, at {formats.norm(trial.norm)} eps" if trial else ""
    columns = [
        Column("Method", numeric=False),
        Column("Parameters"),
        Column("Removed, %"),
        Column("Clean accuracy, %" if trial else "Test accuracy, %"),
        *(Column(formats.budget(eps), group) for eps in budgets),
        Column("largest", "Condition number"),
        Column("product", "Certificate quantity"),
    ]
    best = {eps: leaders(trial, eps, found) for eps, found in tests.items()} if trial else {}
    return Table(
        name=f"comparison-{trial.slug}" if trial else "comparison",
        caption=_overview_caption(trial),
        columns=tuple(columns),
        rows=tuple(_overview_rows(entries, trial, best)),
        notes=(
            *((_LEADERS,) if any(best.values()) else ()),
            *((_SEEDS,) if trial and len(trial.entries) > len(trial.series) else ()),
            *((_UNRESOLVED,) if trial and trial.unresolved else ()),
            *_size_notes(entries),
        ),
    )


def by_attack(trial: Trial) -> Table:
    """Accuracy under each attack at each eps, a row a run."""
    columns = [Column("Method", numeric=False)]
    measured = [(attack, eps) for attack in trial.attacks for eps in trial.eps if attack in trial.attacks_at(eps)]
    columns += [Column(formats.budget(eps), f"{trial.title_of(attack)}, %, at eps") for attack, eps in measured]
    return Table(
        name=f"attacks-{trial.slug}",
        caption=f"Accuracy under each attack of {trial.title}, n = {formats.count(trial.examples)}, {trial.interval} below.",
        columns=tuple(columns),
        rows=tuple(
            (_heading(entry), *(accuracy_cell(trial.accuracy(entry, attack, eps)) for attack, eps in measured))
            for entry in trial.entries
        ),
    )


def paired_tests(trial: Trial, eps: float, comparisons: Sequence[Comparison]) -> Table:
    """Every paired test at one budget, most certain first."""
    what = f"{formats.norm(trial.norm)} eps {formats.budget(eps)}, worst case over the attacks" if eps else "clean accuracy"
    return Table(
        name=f"tests-{trial.slug}-{eps:g}",
        caption=f"Paired tests at {what}: exact McNemar, n = {formats.count(trial.examples)}, "
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
        notes=(_OPEN,) if eps and trial.unresolved else (),
    )


def audit(trial: Trial) -> Table:
    """Every check of every evaluation: a row a check, a column a run."""
    found = {entry.name: {finding.check: finding for finding in trial.results[entry.name].record.audit} for entry in trial.entries}
    checks = list(dict.fromkeys(check for findings in found.values() for check in findings))
    return Table(
        name=f"audit-{trial.slug}",
        caption=f"Audit of the evaluation with {trial.title}: ✓ pass, ! warning, ✕ failure.",
        columns=(
            Column("Check", numeric=False),
            *(Column(entry.name, numeric=False, series=entry.series) for entry in trial.entries),
        ),
        rows=tuple((Cell(check), *(_audit_cell(found[entry.name].get(check)) for entry in trial.entries)) for check in checks),
    )


def audit_remarks(trial: Trial) -> list[tuple[AuditFinding, str]]:
    """Return the warnings and failures, each once with the runs that it concerns, failures first."""
    remarks: dict[str, tuple[AuditFinding, list[str]]] = {}
    for entry in trial.entries:
        for finding in trial.results[entry.name].record.audit:
            if finding.status != "pass":
                remarks.setdefault(finding.model_dump_json(), (finding, []))[1].append(entry.name)
    everyone = len(trial.entries)
    named = [
        (finding, "every network" if len(names) == everyone > 1 else formats.listing(names)) for finding, names in remarks.values()
    ]
    return sorted(named, key=lambda remark: remark[0].status != "fail")


def _overview_rows(entries: Sequence[Entry], trial: Trial | None, best: dict[float, set[str]]) -> Iterator[tuple[Cell, ...]]:
    for series, members in groupby(entries, key=lambda entry: entry.series):
        yield from (_overview_row(entry, trial, best) for entry in members)
        spread = trial.spread(series, CLEAN) if trial else None
        if trial and spread and spread.seeds > 1:
            accuracies = [_spread_cell(trial, series, CLEAN), *(_spread_cell(trial, series, WORST, eps) for eps in trial.eps)]
            heading, none = Cell(series, f"mean of {spread.seeds} seeds", series=series), Cell("")
            yield (heading, none, none, *accuracies, none, none)


def _spread_cell(trial: Trial, series: str, attack: str, eps: float = 0.0) -> Cell:
    mean, spread = trial.mean(series, attack, eps), trial.spread(series, attack, eps)
    if mean is None or spread is None or spread.deviation is None or spread.interval is None:
        return Cell("–")
    text = f"{formats.accuracy(mean.value, mean.most)} ± {formats.percent(spread.deviation)}"
    return Cell(text, formats.interval(max(spread.interval.low, 0), min(spread.interval.high, 1)), value=mean.value)


def _overview_row(entry: Entry, trial: Trial | None, best: dict[float, set[str]]) -> tuple[Cell, ...]:
    parameters = entry.run.record.parameters
    found = conditioning(entry)
    row = [_heading(entry)]
    if parameters.total:
        share = f"{formats.percent(parameters.inference / parameters.dense)} % of dense"
        row += [count_cell(parameters.inference, share), percent_cell(parameters.removed)]
    else:
        row += [Cell("–"), Cell("–")]
    if trial is None:
        row.append(percent_cell(entry.run.record.test_accuracy))
    else:
        row.append(accuracy_cell(trial.accuracy(entry, CLEAN), leads=entry.series in best.get(0, ()), missing="not attacked"))
        row += [
            accuracy_cell(trial.accuracy(entry, WORST, eps), leads=entry.series in best.get(eps, ()), missing="not attacked")
            for eps in trial.eps
        ]
    if found is None:
        return (*row, Cell("–"), Cell("–"))
    compressed = found.factored_layers and found.factored_layers < found.layers
    return (
        *row,
        quantity_cell(found.worst, f"compressed {formats.quantity(found.factored_worst)}" if compressed else ""),
        quantity_cell(found.product, f"compressed {formats.quantity(found.factored_product)}" if compressed else ""),
    )


def _overview_caption(trial: Trial | None) -> str:
    if trial is None:
        return "Not attacked: accuracy on the whole test set, without an interval."
    return (
        f"{trial.title} on {trial.data}: n = {formats.count(trial.examples)} test examples, the same for every run; "
        f"{trial.interval} intervals below each accuracy. Worst case: right under {trial.coverage}."
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
        *((f"–: {formats.listing(closed)} shows neither its layers nor its parameters.",) if len(closed) == 1 else ()),
        *((f"–: {formats.listing(closed)} show neither their layers nor their parameters.",) if len(closed) > 1 else ()),
        *((_CONDITIONING,) if conditioned else ()),
        *(("∞: a layer has a singular value of zero.",) if infinite else ()),
    )


def _test_row(comparison: Comparison) -> tuple[Cell, ...]:
    better, difference = comparison.better, comparison.difference
    return (
        Cell(f"{comparison.first.name} – {comparison.second.name}", concerns=(comparison.first.series, comparison.second.series)),
        Cell(
            formats.signed(difference.value),
            f"[{formats.signed(difference.low)}, {formats.signed(difference.high)}]",
            value=difference.value,
        ),
        count_cell(comparison.only_first),
        count_cell(comparison.only_second),
        Cell(formats.p_value(comparison.p).removeprefix("= "), value=comparison.p),
        Cell(formats.p_value(comparison.adjusted).removeprefix("= "), value=comparison.adjusted),
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
    return f"{formats.count(number)} {noun}" + ("" if number == 1 else "s")
