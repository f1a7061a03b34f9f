"""`rlr-eval show`."""

import math
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import Json
from robust_lowrank.errors import shown
from robust_lowrank.numbers import SINGULAR

if TYPE_CHECKING:
    from robust_lowrank.jobs.overview import Overview

LAYERS = 16  # rows that are shown; of more layers the worst-conditioned
EPOCHS = 3  # of the history
ORIGINS = {"trained": "trained by rlr-eval train", "recorded": "trained by a loop of one's own", "elsewhere": "from elsewhere"}


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, complete or not.")],
    json: Json = False,
) -> None:
    """Show one run on a screen: what it is, its layers, history, results and certificates, its files, and what to do next.

    It reads what is stored. That every file is as it was written it does check; 'rlr-eval verify' proves what they say.
    """
    from robust_lowrank.jobs.overview import overview

    seen = overview(run)
    if json:
        console.print_json(_listed(seen))
        return
    _say_head(seen)
    for table in (_layers(seen), _history(seen), _results(seen), _certificates(seen)):
        if table is not None:
            console.say("")
            console.print_table(table)
    console.say("")
    _say("Files: " + ", ".join(f"{name} {_bytes(size)}" for name, size in seen.files.items()))
    for fault in seen.faults:
        _say(f"Not in order: {fault}")
    if not seen.faults:
        _say("Every file is as it was written.")
    for command in seen.next:
        _say(f"Next: {command}")


def _say_head(seen: "Overview") -> None:
    record, parameters = seen.record, seen.record.parameters
    _say(f"{record.label}, in {seen.path}")
    shape = "" if record.input_shape is None else f", {' x '.join(map(str, record.input_shape))}"
    classes = f", {len(record.classes)} classes" if record.classes else ""
    _say(f"{record.model} on {record.data}{shape}{classes}; method {record.method}, seed {record.seed}")
    state = "complete" if record.status == "complete" else "NOT COMPLETE, stopped or still running"
    epochs = "1 epoch" if record.epochs_done == 1 else f"{record.epochs_done} epochs"
    took = "" if seen.origin == "elsewhere" else f", {epochs} in {record.seconds:.1f} s"
    _say(f"{ORIGINS[seen.origin]}: {state}{took}, begun {record.created}")
    if record.command:
        _say(f"Made by: {record.command}{'' if record.status == 'complete' else ' (run again, it goes on)'}")
    if record.test_accuracy is not None:
        _say(f"Test accuracy {record.test_accuracy:.1%}")
    text = f"Parameters: {parameters.inference:,} for inference, {parameters.dense:,} dense"
    if parameters.saved:
        text += f", {parameters.saved:.1%} removed"
    if parameters.rank_fraction < 1:
        text += f"; compressed layers have {parameters.rank_fraction:.1%} of full rank"
    _say(text)
    if (costs := record.costs) is not None:
        times = (
            f"{each.milliseconds:.2f} ms for {each.batch}{'' if each.relative is None else f' ({each.relative:.2f} times dense)'}"
            for each in costs.latencies
        )
        _say(f"An example takes {costs.flops:,} FLOPs (dense {costs.dense_flops:,}), a batch {', '.join(times)}")


def _layers(seen: "Overview") -> Table | None:
    rows: list[dict[Any, Any]] = seen.layers.to_dict("records")
    if not rows:
        return None
    epoch = int(rows[0]["epoch"])
    listed = rows if len(rows) <= LAYERS else sorted(rows, key=lambda row: -row["cond"])[:LAYERS]
    title = f"layer (epoch {epoch})" if len(listed) == len(rows) else f"layer (epoch {epoch}, the worst {LAYERS} of {len(rows)})"
    table = _table(title, "kind", "weights", "matrix", "rank", "condition number", numbers=3)
    for row in listed:
        reason = seen.record.kept_dense.get(row["layer"], "")
        weights = "compressed" if row["factored"] else f"dense: {reason}" if reason else "dense"
        matrix = f"{row['rows']} x {row['columns']}"
        table.add_row(_cell(row["layer"]), _cell(row["kind"]), _cell(weights), matrix, str(row["rank"]), _cond(row["cond"]))
    return table


def _history(seen: "Overview") -> Table | None:
    if seen.history.empty:
        return None
    table = _table(*(_cell(str(column).replace("_", " ")) for column in seen.history), numbers=len(seen.history.columns))
    for row in seen.history.tail(EPOCHS).itertuples(index=False):
        table.add_row(*(_short(value) for value in row))
    return table


def _results(seen: "Overview") -> Table | None:
    from robust_lowrank.cli.results import in_full

    if not seen.results:
        return None
    table = _table("result", "norm", "examples", "clean", "worst case", "audit")
    for name, record in seen.results.items():
        clean = next((entry for entry in record.accuracies if entry.attack == "clean"), None)
        worst = [entry for entry in record.accuracies if entry.attack == "worst"]
        robust = ", ".join(
            f"{entry.value:.1%}{f' to {entry.most:.1%}' if entry.unresolved else ''} at {entry.eps:.4g}{in_full(entry)}"
            for entry in worst
        )
        passed = sum(finding.status == "pass" for finding in record.audit)
        counts = ("–", "–") if clean is None else (str(clean.total), f"{clean.value:.1%}")
        table.add_row(_cell(name), record.norm, *counts, robust or "–", f"{passed} of {len(record.audit)} pass")
    return table


def _certificates(seen: "Overview") -> Table | None:
    if not seen.certificates:
        return None
    table = _table("certificate", "examples", "Lipschitz bound", "certified")
    for name, record in seen.certificates.items():
        bound = "–" if record.bound is None else f"{record.bound:.4g}"
        points = [point for point in record.curve if point.radius > 0]
        proved = [point for point in points if point.certified] or points[:1]
        curve = ", ".join(f"{point.value:.1%} at {point.radius:g}" for point in proved[:3])
        total = str(record.curve[0].total) if record.curve else "–"
        table.add_row(_cell(name), total, bound, _cell(f"no: {record.reasons[0]}" if record.reasons else curve))
    return table


def _say(line: str) -> None:
    """Print a line in which names may be anybody's."""
    console.say(shown(line))


def _cell(text: str) -> str:
    return escape(shown(text))


def _table(*titles: str, numbers: int = 0) -> Table:
    """Return a table without lines whose last columns, so many, hold numbers."""
    table = Table(*titles, box=None, pad_edge=False)
    for column in table.columns[len(titles) - numbers :]:
        column.justify = "right"
    return table


def _short(value: Any) -> str:
    if not isinstance(value, Real):
        return _cell(str(value))
    if isinstance(value, float) and not math.isfinite(value):
        return "–" if math.isnan(value) else "∞"
    return f"{value:.4g}" if isinstance(value, float) and not float(value).is_integer() else f"{value:.0f}"


def _cond(value: Any) -> str:
    """Return a condition number, and that a matrix is singular as far as float32 can tell."""
    return _short(value) + (", singular" if isinstance(value, float) and value > SINGULAR else "")


def _bytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def _listed(seen: "Overview") -> dict[str, Any]:
    """Return the overview as plain lists and dictionaries."""
    return {
        "run": str(seen.path),
        "origin": seen.origin,
        "record": seen.record.model_dump(),
        "layers": console.rows(seen.layers),
        "history": console.rows(seen.history),
        "results": {name: record.model_dump() for name, record in seen.results.items()},
        "certificates": {name: record.model_dump() for name, record in seen.certificates.items()},
        "files": seen.files,
        "faults": list(seen.faults),
        "next": list(seen.next),
    }
