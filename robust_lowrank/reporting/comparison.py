"""The comparison report: networks side by side, with what is known about their differences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robust_lowrank.records import Run
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.comparisons import compare
from robust_lowrank.reporting.comparing.entries import Entry, arrange
from robust_lowrank.reporting.comparing.evaluations import Evaluation, find_evaluations
from robust_lowrank.reporting.comparison_summary import summarise
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.statements import Summary
from robust_lowrank.reporting.output import page
from robust_lowrank.reporting.output.files import write_pictures, write_report
from robust_lowrank.reporting.output.frames import results_frame
from robust_lowrank.reporting.output.page import Drawing
from robust_lowrank.reporting.output.provenance import provenance
from robust_lowrank.reporting.sections import accuracy, comparison, conditioning
from robust_lowrank.reporting.sections.comparison import Tests
from robust_lowrank.reporting.views import View, conditioning_view, find_views

_PANELS = 6  # layers drawn; the condition-number report has no limit


def comparison_report(runs: Sequence[Run], out: Path, *, title: str, command: str) -> Path:
    """Write `report.html` with its other formats and `figures/` under `out` and return the path of the page.

    A run without evaluations, or one run alone, makes a report too; it says what is missing. Runs of one label with
    different seeds are one method: a row a run in the tables, their mean in the charts. Only runs that were put to the same suite
    on the same examples are compared.

    Args:
        runs: as read by `records.read_run`.
        out: directory; made if it is missing.
        title: heading of the report.
        command: what makes this report again; shown in it.

    Raises:
        UserError: there are no runs.
    """
    entries = arrange(runs)
    evaluations = find_evaluations(entries)
    tests = {evaluation.slug: _tests(evaluation) for evaluation in evaluations}
    figures = {evaluation.slug: [accuracy.robustness(evaluation), accuracy.attacks(evaluation)] for evaluation in evaluations}
    measured = [entry for entry in entries if len(entry.run.spectra)]
    layers = spectra.worst_layers(measured, _PANELS) if measured else []
    figures["conditioning"] = _conditioning_figures(measured, layers) if measured else []
    views, joined = find_views(evaluations), conditioning_view(evaluations)
    for view in (*views, *([joined] if joined else [])):
        figures[view.slug] = list(view.figures)
    drawings = page.draw([figure for group in figures.values() for figure in group], entries)
    drawn = {group: [drawings[f.name] for f in members if f] for group, members in figures.items()}
    context = {
        "title": title,
        "subtitle": _subtitle(entries, evaluations),
        "summary": summarise(entries, evaluations, tests[evaluations[0].slug] if evaluations else {}),
        "sections": [_section(entries, evaluation, tests[evaluation.slug], drawn[evaluation.slug]) for evaluation in evaluations]
        or [{"title": "Networks", "overview": comparison.overview(entries, None, {})}],
        "views": [_view(view, drawn[view.slug]) for view in views],
        "joined": _view(joined, drawn[joined.slug]) if joined else None,
        "conditioning": drawn["conditioning"],
        "conditioning_notes": (spectra.MATRIX_NOTE, spectra.CERTIFICATE_NOTE, *_selection_note(measured, layers)),
        "provenance": provenance(entries, command),
    }
    write_pictures(out, [picture for view in views if view.gallery for picture in view.gallery.pictures])
    return write_report(
        out,
        "report",
        entries=entries,
        drawings=list(drawings.values()),
        table_name="results",
        table=results_frame(entries),
        context=context,
    )


def summary(runs: Sequence[Run]) -> Summary:
    """Return what stands on top of the comparison report of these runs: its main statement, and how sure it is.

    Raises:
        UserError: there are no runs.
    """
    entries = arrange(runs)
    evaluations = find_evaluations(entries)
    return summarise(entries, evaluations, _tests(evaluations[0]) if evaluations else {})


def _tests(evaluation: Evaluation) -> Tests:
    return {eps: compare(evaluation, eps) for eps in (0.0, *evaluation.eps)}


def _section(entries: Sequence[Entry], evaluation: Evaluation, tests: Tests, drawn: list[Drawing]) -> dict[str, Any]:
    attacked = [entry.name for entry in evaluation.entries]
    listed = [entry for entry in entries if entry.name in attacked or entry.run.record.data == evaluation.data]
    return {
        "title": f"Comparison: {evaluation.title}",
        "slug": evaluation.slug,
        "overview": comparison.overview(listed, evaluation, tests),
        "drawings": drawn,
        "by_attack": comparison.by_attack(evaluation),
        "tests": [comparison.paired_tests(evaluation, eps, found) for eps, found in tests.items() if found],
        "audit": comparison.audit(evaluation),
        "remarks": comparison.audit_remarks(evaluation),
    }


def _view(view: View, drawn: list[Drawing]) -> dict[str, Any]:
    return {
        "slug": view.slug,
        "title": view.title,
        "text": view.text,
        "drawings": drawn,
        "tables": view.tables,
        "gallery": view.gallery,
    }


def _conditioning_figures(entries: Sequence[Entry], layers: Sequence[str]) -> list[Figure | None]:
    return [
        conditioning.by_layer(entries),
        conditioning.over_training(entries, layers),
        conditioning.spectra_by_layer(entries, layers),
    ]


def _subtitle(entries: Sequence[Entry], evaluations: Sequence[Evaluation]) -> str:
    models = numbers.listing(list(dict.fromkeys(entry.run.record.model for entry in entries)))
    data = numbers.listing(list(dict.fromkeys(entry.run.record.data for entry in entries)))
    networks = f"{len(entries)} network" + ("s" if len(entries) > 1 else "")
    attacked = f"{numbers.count(evaluations[0].examples)} test examples attacked" if evaluations else "not attacked"
    return f"{networks} ({models}) on {data}, {attacked}"


def _selection_note(entries: Sequence[Entry], layers: Sequence[str]) -> tuple[str, ...]:
    total = len({layer for entry in entries for layer in spectra.final(entry)["layer"]})
    if total == len(layers):
        return ()
    return (
        f"The panels show the {len(layers)} layers with the largest condition numbers of {total}; "
        "the condition-number report has them all.",
    )
