"""The page of a comparison of logs has the systems' accuracies and every paired test."""

import platform
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.logs import Paired, better, power
from robust_lowrank.records import AccuracyRecord, now
from robust_lowrank.reporting.formats.statements import Statement, Summary
from robust_lowrank.reporting.formats.tables import Cell, Table, accuracy_cell, count_cell, numeric, words
from robust_lowrank.reporting.output.files import write_report
from robust_lowrank.reporting.output.provenance import Provenance
from robust_lowrank.reporting.sections.section import Section
from robust_lowrank.statistics import Comparison

LISTED = 8  # pairs that the summary names; the table has all


def paired_report(paired: Paired, out: Path, *, title: str, command: str) -> Path:
    """Write `compare.html` with its other formats under `out` and return the path of the page.

    Args:
        paired: as made by `logs.compare`.
        out: directory; made if it is missing.
        title: heading of the page.
        command: what makes it again; shown in it.
    """
    return write_report(
        out,
        "compare",
        title=title,
        subtitle=f"{numbers.times(len(paired.systems), 'system')} on the same {numbers.count(paired.examples)} examples",
        summary=_summary(paired),
        sections=(_Tables("accuracies", "Accuracies", _accuracies(paired)), _Tables("tests", "Paired tests", _tests(paired))),
        provenance=_provenance(paired, command),
        methods={system.name: "" for system in paired.systems},
        table_name="comparisons",
        table=_frame(paired),
    )


class _Tables(Section):
    """A heading with a table below it."""

    template = "tables"

    def __init__(self, slug: str, heading: str, table: Table) -> None:
        self.slug, self.heading, self.tables = slug, heading, (table,)


def _summary(paired: Paired) -> Summary:
    """Say which system is better, as far as a test supports it."""
    told = sorted(paired.comparisons, key=lambda test: (test.p_holm, -abs(test.difference.value)))
    found = [test for test in told if better(test)]
    open_ = [test for test in told if not better(test)]
    first = told[0]
    if found:
        headline = f"{_said(first)}."
    else:
        headline = f"No system is distinguishable from {'another' if len(told) > 1 else 'the other'} on these examples."
    evidence = f"{_evidence(first)}; Holm-corrected over {numbers.times(len(told), 'comparison')}."
    statements = [Statement("supported", f"{_said(test)}: {_evidence(test)}.") for test in found[1:LISTED]]
    if len(found) > LISTED:
        statements.append(
            Statement("supported", f"{numbers.times(len(found) - LISTED, 'further difference')}: see the table below.")
        )
    if open_ and found:
        names = [f"{test.a} and {test.b} (p {numbers.p_value(test.p_holm)})" for test in open_[:LISTED]]
        more = [f"{len(open_) - LISTED} more"] if len(open_) > LISTED else []
        statements.append(Statement("open", f"Not distinguishable: {numbers.listing([*names, *more])}."))
    if paired.left_out:
        left_out = f"{numbers.times(paired.left_out, 'example')} that not all of the logs have {_are(paired.left_out)} left out."
        statements.append(Statement("warning", f"{left_out} What is compared is a random sample only if they lack at random."))
    statements.append(Statement("note", power(paired)))
    return Summary(headline, evidence, tuple(statements))


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _said(test: Comparison) -> str:
    ours = better(test)
    theirs = test.b if ours == test.a else test.a
    return f"{ours} is better than {theirs} by {numbers.points(test.difference.value)}"


def _evidence(test: Comparison) -> str:
    only = f"{test.a} alone is right on {numbers.count(test.only_a)} examples, {test.b} alone on {numbers.count(test.only_b)}"
    return f"{only}, p {numbers.p_value(test.p_holm)} (exact McNemar)"


def _accuracies(paired: Paired) -> Table:
    rows = []
    for system in paired.systems:
        interval = system.accuracy._asdict()
        record = AccuracyRecord(attack="clean", eps=0, correct=system.correct, total=paired.examples, **interval)
        cells = (Cell(system.name, series=system.name), accuracy_cell(record), count_cell(system.correct), Cell(system.metric))
        rows.append(cells)
    return Table(
        name="accuracies",
        caption=f"Accuracy of each system, n = {numbers.count(paired.examples)}, Wilson 95 % below.",
        columns=(*words("System"), *numeric("Accuracy, %", "Right"), *words("Score")),
        rows=tuple(rows),
    )


def _tests(paired: Paired) -> Table:
    return Table(
        name="tests",
        caption=f"Paired tests: exact McNemar, n = {numbers.count(paired.examples)}, Holm-corrected over "
        f"{numbers.times(len(paired.comparisons), 'comparison')}; 95 % intervals (paired bootstrap) below the differences.",
        columns=(
            *words("Compared"),
            *numeric("Difference, points", "Only the first right", "Only the second right", "p", "p, corrected"),
            *words("Verdict"),
        ),
        rows=tuple(_row(test) for test in sorted(paired.comparisons, key=lambda test: test.p_holm)),
    )


def _row(test: Comparison) -> tuple[Cell, ...]:
    ours, difference = better(test), test.difference
    return (
        Cell(f"{test.a} – {test.b}", concerns=(test.a, test.b)),
        Cell(
            numbers.signed(difference.value),
            f"[{numbers.signed(difference.low)}, {numbers.signed(difference.high)}]",
            value=difference.value,
        ),
        count_cell(test.only_a),
        count_cell(test.only_b),
        Cell(numbers.p_value(test.p).removeprefix("= "), value=test.p),
        Cell(numbers.p_value(test.p_holm).removeprefix("= "), value=test.p_holm),
        Cell(f"{ours} is better" if ours else "not distinguishable", leads=ours is not None),
    )


def _provenance(paired: Paired, command: str) -> Provenance:
    logs = Table(
        name="logs",
        caption="The logs, and the sha256 of each (of a run directory, of its weights).",
        columns=words("System", "Log", "Kind", "Score", "sha256"),
        rows=tuple(
            (Cell(each.name, series=each.name), Cell(str(each.path)), Cell(each.kind), Cell(each.metric), Cell(each.sha256 or "–"))
            for each in paired.systems
        ),
    )
    return Provenance(
        command=command,
        created=now(),
        package=f"robust-lowrank {version('robust-lowrank')}",
        machines=f"compared on {platform.system()} {platform.machine()}; the logs do not say what they were made on",
        tables=(logs,),
        documents=(),
    )


def _frame(paired: Paired) -> pd.DataFrame:
    """Return a row a comparison, with all that is known of both systems."""
    systems = {system.name: system for system in paired.systems}
    rows = []
    for test in paired.comparisons:
        row: dict[str, object] = {"examples": paired.examples, "left_out": paired.left_out}
        for side, name in (("a", test.a), ("b", test.b)):
            system = systems[name]
            value, low, high = system.accuracy
            row |= {side: name, f"correct_{side}": system.correct, f"accuracy_{side}": value}
            row |= {f"low_{side}": low, f"high_{side}": high, f"log_{side}": str(system.path), f"metric_{side}": system.metric}
        value, low, high = test.difference
        row |= {"only_a": test.only_a, "only_b": test.only_b, "difference": value, "low": low, "high": high}
        rows.append(row | {"p": test.p, "p_holm": test.p_holm, "better": better(test)})
    return pd.DataFrame(rows)
