"""The JSON document of a report holds its statements, and the records of its tidy table."""

import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

SCHEMA_VERSION = 1
_ROWS = 1000  # that are Python objects at one time


def render(kind: str, table: pd.DataFrame, context: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    """Yield the report `kind` ("report" or "condition") as JSON, piece by piece, for a table may have very many rows.

    JSON has no infinities: they are the strings "Infinity" and "-Infinity", as JavaScript's `Number` reads them. What is
    missing or not a number is null.

    Example:
        >>> from robust_lowrank.reporting.formats.statements import Summary
        >>> from robust_lowrank.reporting.output.provenance import Provenance
        >>> origin = Provenance("rlr-eval report RUN", "2026-11-24T00:00:00+00:00", "robust-lowrank 0.1.0", "a laptop", (), ())
        >>> context = {"title": "A", "subtitle": "", "summary": Summary("a is best.", "", ()), "provenance": origin}
        >>> json.loads("".join(render("report", pd.DataFrame({"cond": [math.inf]}), context, [])))["records"]
        [{'cond': 'Infinity'}]
    """
    origin, summary = context["provenance"], context["summary"]
    findings = [asdict(statement) for statement in summary.statements]
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "title": context["title"],
        "subtitle": context["subtitle"],
        "created": origin.created,
        "package": origin.package,
        "command": origin.command,
        "machines": origin.machines,
        "summary": {"headline": summary.headline, "evidence": summary.evidence, "findings": findings},
        "files": list(files),
        "records": [],
    }
    text, separator = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False), "\n"
    yield text.removesuffix("]\n}")
    for start in range(0, len(table), _ROWS):
        for row in table.iloc[start : start + _ROWS].to_dict("records"):
            yield separator + _record(row)
            separator = ",\n"
    yield ("\n ]" if len(table) else "]") + "\n}\n"


def _record(row: dict[Hashable, Any]) -> str:
    """Return a row as the indented document has it."""
    plain = {key: _plain(value) for key, value in row.items()}
    fields = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",\n   ", ": "))  # much faster than an indent
    return f"  {{\n   {fields[1:-1]}\n  }}"


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value
