"""The overview shows size, accuracies and conditioning of the networks; alone where none was attacked."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Self

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.comparisons import AllTests
from robust_lowrank.reporting.comparing.contrasts import leaders
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.comparing.spectra import conditioning
from robust_lowrank.reporting.formats.tables import (
    Cell,
    Table,
    accuracy_cell,
    count_cell,
    numeric,
    percent_cell,
    quantity_cell,
    words,
)
from robust_lowrank.reporting.sections.section import Section

_LEADERS = (
    "★: the best of its column and every method that the tests cannot tell from it. "
    "A column without ★ holds no difference that they support."
)
_SEEDS = "Mean of the seeds: ± is the standard deviation between them, below it the 95 % t-interval of the mean."
_UNRESOLVED = "Ranges: for some examples the budget ran out before a verdict; from all of them broken to all of them robust."
_IN_FULL = (
    "In full ≥: what all of aa-native would leave at least, with 95 % confidence for each figure; it was tried on a random sample "
    "of the examples that the cheaper parts left."
)
_IMPLIED = (
    "One search served several eps: each example was attacked at the largest eps that it might withstand, and counts as robust at "
    "smaller ones without an attack there."
)
_OTHERS = (
    "Columns of different suites or examples are to be read side by side, not to be compared; further below are their sections."
)
_CONDITIONING = (
    "Condition number: of the worst layer after training. Certificate quantity: the product over all layers. "
    "Below each: over the compressed layers alone."
)


@dataclass(frozen=True)
class Networks(Section):
    """The networks of a report where none of them was attacked."""

    entries: tuple[Entry, ...]
    report = "comparison"
    place = 10
    slug = "section-1"
    heading = "Networks"
    template = "tables"

    @classmethod
    def find(cls, evidence: Evidence) -> list[Self]:
        """Return the networks where none was attacked."""
        return [] if evidence.evaluations else [cls(evidence.entries)]

    @cached_property
    def table(self) -> Table:
        """The overview."""
        return overview_table(self.entries, None, AllTests())


def overview_table(
    entries: Sequence[Entry], evaluation: Evaluation | None, tests: AllTests, others: Sequence[Evaluation] = ()
) -> Table:
    """Show accuracies with intervals, size and conditioning, a row a run.

    Args:
        evaluation: None where no run was attacked.
        others: further evaluations, of which the outcome at the headline eps stands in a column.
    """
    budgets = [numbers.budget(eps) for eps in evaluation.eps] if evaluation else []
    group = f"Worst case, %, at {numbers.norm(evaluation.norm)} eps" if evaluation else ""
    best = {eps: leaders(evaluation, tests, eps) for eps in (0.0, *evaluation.eps)} if evaluation else {}
    return Table(
        name=f"comparison-{evaluation.slug}" if evaluation else "comparison",
        caption=_caption(evaluation),
        columns=(
            *words("Method"),
            *numeric("Clean accuracy, %" if evaluation else "Test accuracy, %"),
            *numeric(*budgets, group=group),
            *(column for other in others for column in numeric(numbers.budget(other.headline_eps), group=_group(other))),
            *numeric("Parameters"),
            *numeric("largest", group="Condition number"),
            *numeric("product", group="Certificate quantity"),
        ),
        rows=tuple(_rows(entries, evaluation, best, others)),
        notes=(
            *((_LEADERS,) if any(best.values()) else ()),
            *((_OTHERS,) if others else ()),
            *((_SEEDS,) if evaluation and evaluation.repeated else ()),
            *((_UNRESOLVED,) if evaluation and evaluation.unresolved else ()),
            *((_IN_FULL,) if any(each.sampled for each in (evaluation, *others) if each) else ()),
            *((_IMPLIED,) if evaluation and evaluation.implied else ()),
            *_size_notes(entries),
        ),
    )


def heading_cell(entry: Entry) -> Cell:
    """Return the heading of a run's row: its series, and what sets it apart."""
    record = entry.run.record
    unfinished = "" if record.status == "complete" else f"unfinished, {numbers.times(record.epochs_done, 'epoch')}"
    return Cell(entry.series, ", ".join(filter(None, (entry.variant, unfinished))), series=entry.series)


def _group(other: Evaluation) -> str:
    return f"{other.rules}, n = {numbers.count(other.examples)}, %, at eps"


def _rows(
    entries: Sequence[Entry], evaluation: Evaluation | None, best: dict[float, set[str]], others: Sequence[Evaluation]
) -> Iterator[tuple[Cell, ...]]:
    for series, members in groupby(entries, key=lambda entry: entry.series):
        yield from (_row(entry, evaluation, best, others) for entry in members)
        spread = evaluation.spread(series, CLEAN) if evaluation else None
        if evaluation and spread and spread.seeds > 1:
            heading, none = Cell(series, f"mean of {spread.seeds} seeds", series=series), Cell("")
            robust = (_spread_cell(evaluation, series, WORST, eps) for eps in evaluation.eps)
            further = (_spread_cell(other, series, WORST, other.headline_eps) for other in others)
            yield (heading, _spread_cell(evaluation, series, CLEAN), *robust, *further, none, none, none)


def _spread_cell(evaluation: Evaluation, series: str, attack: str, eps: float = 0.0) -> Cell:
    mean, spread = evaluation.mean(series, attack, eps), evaluation.spread(series, attack, eps)
    interval = evaluation.interval_of(series, attack, eps)
    if mean is None or spread is None or interval is None or spread.deviation is None:
        return Cell("–")
    text = f"{numbers.accuracy(mean.value, mean.most)} ± {numbers.percent(spread.deviation)}"
    return Cell(text, numbers.interval(interval.low, interval.high), value=mean.value)


def _row(
    entry: Entry, evaluation: Evaluation | None, best: dict[float, set[str]], others: Sequence[Evaluation]
) -> tuple[Cell, ...]:
    parameters = entry.run.record.parameters
    measured = conditioning(entry)
    row = [heading_cell(entry)]
    if evaluation is None:
        row.append(percent_cell(entry.run.record.test_accuracy))
    else:
        accuracies = {eps: evaluation.accuracy(entry, WORST if eps else CLEAN, eps) for eps in (0.0, *evaluation.eps)}
        row += [
            accuracy_cell(accuracy, leads=entry.series in best.get(eps, ()), missing="not attacked")
            for eps, accuracy in accuracies.items()
        ]
    row += [accuracy_cell(other.accuracy(entry, WORST, other.headline_eps), missing="not attacked") for other in others]
    if parameters.total:
        fewer = f"{numbers.percent(parameters.saved)} % fewer" if parameters.saved > 0 else ""
        row.append(count_cell(parameters.inference, fewer))
    else:
        row.append(Cell("–"))
    if measured is None:
        return (*row, Cell("–"), Cell("–"))
    compressed = measured.factored_layers and measured.factored_layers < measured.layers
    quantities = (measured.worst, measured.factored_worst), (measured.product, measured.factored_product)
    cells = (quantity_cell(all_, f"compressed {numbers.quantity(part)}" if compressed else "") for all_, part in quantities)
    return (*row, *cells)


def _caption(evaluation: Evaluation | None) -> str:
    if evaluation is None:
        return "Not attacked: accuracy on the whole test set, without an interval."
    return (
        f"{evaluation.rules} on {evaluation.data}: n = {numbers.count(evaluation.examples)} test examples, the same for every run; "
        f"{evaluation.interval} intervals below each accuracy. Worst case: right under {evaluation.coverage}."
    )


def _size_notes(entries: Sequence[Entry]) -> tuple[str, ...]:
    compressed = any(entry.run.record.parameters.saved for entry in entries)
    size = "Parameters: of all layers, as stored for inference; below, how many fewer these are than the dense network's."
    closed = [entry.name for entry in entries if not entry.run.record.parameters.total]
    products = [measured.product for entry in entries if (measured := conditioning(entry))]
    return (
        *((size,) if compressed else ()),
        *((f"–: {numbers.listing(closed)} shows neither its layers nor its parameters.",) if len(closed) == 1 else ()),
        *((f"–: {numbers.listing(closed)} show neither their layers nor their parameters.",) if len(closed) > 1 else ()),
        *((_CONDITIONING,) if products else ()),
        *(("∞: a layer has a singular value of zero.",) if any(map(math.isinf, products)) else ()),
    )
