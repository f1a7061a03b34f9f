"""The comparison report sets networks side by side, with what is known about their differences."""

from collections.abc import Sequence
from pathlib import Path

from robust_lowrank import numbers
from robust_lowrank.records import Run
from robust_lowrank.reporting.comparing.evidence import Evidence, gather
from robust_lowrank.reporting.comparison_summary import summarise
from robust_lowrank.reporting.formats.statements import Summary
from robust_lowrank.reporting.formats.tables import Table
from robust_lowrank.reporting.hero import hero
from robust_lowrank.reporting.output.files import write_report
from robust_lowrank.reporting.output.frames import results_frame
from robust_lowrank.reporting.output.provenance import BundleProof, provenance
from robust_lowrank.reporting.sections.comparison import ComparisonSection
from robust_lowrank.reporting.sections.overview import Networks
from robust_lowrank.reporting.sections.registry import COMPARISON, find_sections

_MODELS = 4  # that the subtitle names


def comparison_report(runs: Sequence[Run], out: Path, *, title: str, command: str, bundles: Sequence[BundleProof] = ()) -> Path:
    """Write `report.html` with its other formats and `figures/` under `out` and return the path of the page.

    A run without evaluations, or one run alone, makes a report too; it says what is missing. Runs of one label with
    different seeds are one method: a row a run in the tables, their mean in the charts. Only runs that were put to the same suite
    on the same examples are compared.

    Args:
        runs: as read by `records.read_run`.
        out: directory; made if it is missing.
        title: heading of the report.
        command: what makes this report again; shown in it.
        bundles: the proofs of those of the runs that were read from bundles.

    Raises:
        UserError: there are no runs.
    """
    evidence = gather(runs)
    return write_report(
        out,
        "report",
        title=title,
        subtitle=_subtitle(evidence),
        summary=summarise(evidence),
        hero=hero(evidence),
        sections=find_sections(COMPARISON, evidence),
        provenance=provenance(evidence.entries, command, bundles),
        methods=evidence.methods,
        table_name="results",
        table=results_frame(evidence.entries),
    )


def summary(runs: Sequence[Run]) -> Summary:
    """Return what stands on top of the comparison report of these runs: its main statement, and how sure it is.

    Raises:
        UserError: there are no runs.
    """
    return summarise(gather(runs))


def overview(runs: Sequence[Run]) -> Table:
    """Return the first table of the comparison report of these runs: accuracies, sizes and condition numbers, a row a run.

    Raises:
        UserError: there are no runs.
    """
    evidence = gather(runs)
    (first, *_) = ComparisonSection.find(evidence) or Networks.find(evidence)
    return first.tables[0]


def _subtitle(evidence: Evidence) -> str:
    entries, evaluations = evidence.entries, evidence.evaluations
    named = list(dict.fromkeys(entry.run.record.model for entry in entries))
    models = numbers.listing(named if len(named) <= _MODELS else [*named[: _MODELS - 1], f"{len(named) - _MODELS + 1} more"])
    data = numbers.listing(list(dict.fromkeys(entry.run.record.data for entry in entries)))
    attacked = f"{numbers.count(evaluations[0].examples)} test examples attacked" if evaluations else "not attacked"
    return f"{numbers.times(len(entries), 'network')} ({models}) on {data}, {attacked}"
