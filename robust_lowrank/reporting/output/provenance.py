"""The provenance of a report makes it again: command, configurations, versions, hashes, machines."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

from robust_lowrank import numbers
from robust_lowrank.errors import shown
from robust_lowrank.records import ResultRecord, Run, now
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.formats.tables import Cell, Table, numeric, words


@dataclass(frozen=True)
class Document:
    """A text to show as it is, such as a configuration."""

    title: str
    text: str


class BundleProof(NamedTuple):
    """A bundle that a run of the report was read from, and how much of it was proved again before."""

    run: Run
    file: str
    sha256: str
    examples: int
    broken: int  # verdicts, each of which its stored input has proved
    robust: int  # verdicts, which only an attack could refute
    sized: bool  # parameters and condition numbers are the network's; False: it does not show them


@dataclass(frozen=True)
class Provenance:
    """Everything a reader needs to repeat the work."""

    command: str
    created: str
    package: str
    machines: str
    tables: tuple[Table, ...]
    documents: tuple[Document, ...]


def provenance(entries: Sequence[Entry], command: str, bundles: Sequence[BundleProof] = ()) -> Provenance:
    """Gather what the records say about how the runs and their evaluations came about."""
    machines = dict.fromkeys(record.machine for entry in entries for record in (entry.run.record, *_results(entry)))
    suites = dict.fromkeys(
        Document(f"Suite {result.suite}, {numbers.norm(result.norm)}", _json(result.definition))
        for entry in entries
        for result in _results(entry)
    )
    return Provenance(
        command=command,
        created=now(),
        package=f"robust-lowrank {version('robust-lowrank')}",
        machines="; ".join(machines),
        tables=(*_bundles(entries, bundles), _runs(entries), *_evaluations(entries), _versions(entries)),
        documents=(*suites, *(Document(f"Configuration of {entry.name}", _configuration(entry)) for entry in entries)),
    )


def _configuration(entry: Entry) -> str:
    record = entry.run.record
    kept = {"kept_dense": record.kept_dense} if record.kept_dense else {}
    return _json({"command": record.command, "config": record.config, **kept})


def _bundles(entries: Sequence[Entry], bundles: Sequence[BundleProof]) -> tuple[Table, ...]:
    if not bundles:
        return ()
    named = {id(entry.run.record): entry for entry in entries}
    rows = [(named[id(each.run.record)], each) for each in bundles if id(each.run.record) in named]
    return (
        Table(
            name="bundles",
            caption="The bundles that runs were read from. Before this report was written, each broken example in them "
            "was proved by the input that breaks it, on the network and the examples in the bundle; robust ones no file can prove.",
            columns=(
                *words("Run", "Bundle", "sha256"),
                *numeric("Examples", "Broken, proved", "Robust"),
                *words("Size and layers"),
            ),
            rows=tuple(
                (
                    Cell(entry.name, series=entry.series),
                    Cell(shown(each.file)),
                    Cell(_short(each.sha256)),
                    *(Cell(numbers.count(count), value=count) for count in (each.examples, each.broken, each.robust)),
                    Cell("not shown" if not each.run.record.parameters.total else "proved" if each.sized else "as told"),
                )
                for entry, each in rows
            ),
        ),
    )


def _runs(entries: Sequence[Entry]) -> Table:
    return Table(
        name="runs",
        caption="The runs and the sha256 of what went into them.",
        columns=(
            *words("Run", "Model", "Data"),
            *numeric("Seed", "Epochs", "Training, s"),
            *words("Weights", "Training set", "Test set", "Evaluated examples", group="sha256"),
        ),
        rows=tuple(_run_row(entry) for entry in entries),
    )


def _run_row(entry: Entry) -> tuple[Cell, ...]:
    record = entry.run.record
    evaluated = dict.fromkeys(_short(result.hashes["data"]) for result in _results(entry))
    return (
        Cell(entry.name, series=entry.series),
        Cell(record.model),
        Cell(record.data),
        Cell(str(record.seed), value=record.seed),
        Cell(str(record.epochs_done), value=record.epochs_done),
        Cell(f"{record.seconds:.1f}", value=record.seconds),
        *(Cell(_short(record.hashes.get(key, ""))) for key in ("weights", "train", "test")),
        Cell(", ".join(evaluated) or "–"),
    )


def _evaluations(entries: Sequence[Entry]) -> tuple[Table, ...]:
    rows = tuple(
        (
            Cell(entry.name, series=entry.series),
            Cell(f"{record.suite}, {numbers.norm(record.norm)}"),
            Cell(str(record.seed)),
            Cell(record.created),
            Cell(f"{record.seconds:.1f}"),
            *(Cell(_short(record.hashes.get(key, ""))) for key in ("attack", "weights", "data")),
            Cell(newer or "–"),
        )
        for entry in entries
        for record, newer in (
            *((record, "") for record in _results(entry)),
            *((result.record, f"results/{newer}") for result, newer in entry.superseded.values()),
        )
    )
    if not rows:
        return ()
    columns = (
        *words("Run", "Suite"),
        *numeric("Seed"),
        *words("Date"),
        *numeric("Evaluation, s"),
        *words("Attack", "Weights", "Examples", group="sha256"),
        *words("Superseded by"),
    )
    return (Table("evaluations", "The evaluations and the sha256 of what went into them.", columns, rows),)


def _versions(entries: Sequence[Entry]) -> Table:
    by_package: dict[str, dict[str, None]] = {}
    for entry in entries:
        for record in (entry.run.record, *_results(entry)):
            for name, number in record.versions.items():
                by_package.setdefault(name, {})[number] = None
    return Table(
        name="versions",
        caption="Versions that trained and evaluated.",
        columns=words("Package", "Version"),
        rows=tuple((Cell(name), Cell(", ".join(versions))) for name, versions in by_package.items()),
    )


def _results(entry: Entry) -> list[ResultRecord]:
    return [result.record for result in entry.run.results.values()]


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12] or "–"


def _json(value: object) -> str:
    return "\n".join(map(shown, json.dumps(value, indent=2, ensure_ascii=False, default=str).split("\n")))
