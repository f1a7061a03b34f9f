"""A view of many runs is one page: a table to filter and to sort, and the details of each run a click away."""

import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from robust_lowrank import numbers
from robust_lowrank.errors import shown
from robust_lowrank.records import AccuracyRecord, ResultRecord, now, write_text
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, accuracy_cell, count_cell, numeric, percent_cell, words
from robust_lowrank.reporting.found import Found
from robust_lowrank.reporting.output.page import environment

PROSE = 2000  # characters of a message
TEXT = 20_000  # of a configuration
MARKS = {"pass": "✓", "warn": "!", "fail": "✕"}
Key = tuple[str, str, float]  # suite, norm and eps


def write_view(runs: Sequence[Found], directory: Path, out: Path, *, command: str) -> Path:
    """Write the page of runs that were found below a directory, one file that opens without a network, and return its path.

    Args:
        runs: as `found.find` has them.
        directory: below which they lie; the page names them from there.
        out: the file.
        command: what makes it again; shown in it.
    """
    page = environment(autoescape=True).get_template("view.html")
    text = page.render(
        title=f"Runs in {shown(directory)}",
        subtitle=_subtitle(runs),
        table=_table(runs, directory),
        runs=[_details(run, directory) for run in runs],
        command=command,
        created=now(),
        package=f"robust-lowrank {version('robust-lowrank')}",
    )
    write_text(out, text)
    return out


def _subtitle(runs: Sequence[Found]) -> str:
    states = [_state(run)[0] for run in runs]
    counts = [f"{states.count(state)} {state}" for state in ("unfinished", "damaged") if state in states]
    return ", ".join([numbers.times(len(runs), "run"), *counts])


def _table(runs: Sequence[Found], directory: Path) -> Table:
    keys = sorted({key for run in runs for key in _worst(run)})
    return Table(
        name="runs",
        caption="The runs; a name opens what is known of its run.",
        columns=(
            *words("Run", "Method", "Network", "Data"),
            *numeric("Seed", "Rank, %", "Parameters", "Clean, %"),
            *(Column(numbers.budget(eps), f"{suite}, {numbers.norm(norm)}, worst case in %, at eps") for suite, norm, eps in keys),
            *numeric("Condition number"),
            *words("Status"),
            *numeric("Audit"),
        ),
        rows=tuple(_row(run, directory, keys) for run in runs),
    )


def _row(run: Found, directory: Path, keys: Sequence[Key]) -> tuple[Cell, ...]:
    record, worst, (state, status) = run.record, _worst(run), _state(run)
    if record is None:
        gaps = (Cell("–") for _ in range(7 + len(keys) + 1))
        return (Cell(_place(run, directory)), *gaps, Cell(state, status=status), Cell("–"))
    condition = Cell("–") if run.condition is None else Cell(numbers.quantity(run.condition[1]), value=run.condition[1])
    return (
        Cell(record.label or _place(run, directory), _place(run, directory)),
        *(Cell(text) for text in (record.method, record.model, record.data)),
        Cell(str(record.seed), value=record.seed),
        percent_cell(record.parameters.rank_fraction),
        count_cell(record.parameters.inference),
        percent_cell(record.test_accuracy),
        *(accuracy_cell(worst.get(key)) for key in keys),
        condition,
        Cell(state, status=status),
        _audit(run),
    )


def _place(run: Found, directory: Path) -> str:
    return shown(run.path.relative_to(directory).as_posix())


def _state(run: Found) -> tuple[str, str]:
    """Return a run's state, and the look of it."""
    if run.record is None:
        return "damaged", "fail"
    if run.record.status != "complete":
        return "unfinished", "warn"
    return ("complete, with faults", "warn") if run.faults else ("complete", "pass")


def _worst(run: Found) -> dict[Key, AccuracyRecord]:
    """Return the worst case over the attacks by suite, norm and eps; of several results the newest."""
    found: dict[Key, AccuracyRecord] = {}
    for result in sorted(run.results.values(), key=lambda result: result.created):
        found |= {(result.suite, result.norm, entry.eps): entry for entry in result.accuracies if entry.attack == "worst"}
    return found


def _audit(run: Found) -> Cell:
    """Return how many checks have failed or warn; runs with more of them sort behind."""
    statuses = [finding.status for result in run.results.values() for finding in result.audit]
    if not statuses:
        return Cell("–")
    failed, warned = statuses.count("fail"), statuses.count("warn")
    text = ", ".join(f"{count} {name}" for count, name in ((failed, "failed"), (warned, "warn")) if count)
    status = "fail" if failed else "warn" if warned else "pass"
    return Cell(f"{MARKS[status]} {text or f'{len(statuses)} pass'}", status=status, value=1000 * failed + warned)


def _details(run: Found, directory: Path) -> dict[str, Any]:
    """Return what the panel of a run shows, as plain values."""
    record = run.record
    return {
        "title": _place(run, directory) if record is None else record.label,
        "path": _place(run, directory),
        "faults": [shown(fault)[:PROSE] for fault in run.faults],
        "facts": [] if record is None else _facts(run),
        "accuracies": [row for name, result in run.results.items() for row in _accuracies(name, result)],
        "audit": [row for name, result in run.results.items() for row in _findings(name, result)],
        "config": "" if record is None else json.dumps(record.config, indent=1, ensure_ascii=False, default=str)[:TEXT],
    }


def _facts(run: Found) -> list[list[str]]:
    record = run.record
    assert record is not None
    facts = {
        "Status": _state(run)[0],
        "Method": record.method,
        "Network": record.model,
        "Data": record.data,
        "Seed": str(record.seed),
        "Epochs": str(record.epochs_done),
        "Training": f"{record.seconds:.1f} s",
        "Test accuracy": "" if record.test_accuracy is None else f"{numbers.percent(record.test_accuracy)} %",
        "Parameters": f"{numbers.count(record.parameters.inference)} for inference, {numbers.count(record.parameters.dense)} dense",
        "Rank": f"{numbers.percent(record.parameters.rank_fraction)} % of full rank, mean over compressed layers",
        "Condition number": "" if run.condition is None else f"{numbers.quantity(run.condition[1])} ({run.condition[0]})",
        "Begun": record.created,
        "Machine": record.machine,
        "Command": record.command,
        "Weights": record.hashes.get("weights", ""),
    }
    return [[name, shown(value)[:PROSE]] for name, value in facts.items() if value]


def _accuracies(name: str, result: ResultRecord) -> list[list[str]]:
    return [
        [
            shown(name),
            shown(result.title(entry.attack) or entry.attack),
            f"{numbers.norm(result.norm)} {numbers.budget(entry.eps)}" if entry.eps else "",
            numbers.accuracy(entry.value, entry.most),
            numbers.interval(entry.low, entry.high),
            f"{numbers.count(entry.correct)} of {numbers.count(entry.total)}",
        ]
        for entry in result.accuracies
        if math.isfinite(entry.value)
    ]


def _findings(name: str, result: ResultRecord) -> list[list[str]]:
    return [
        [finding.status, shown(name), finding.check, f"{finding.message}{f' {finding.remedy}' if finding.remedy else ''}"[:PROSE]]
        for finding in result.audit
    ]
