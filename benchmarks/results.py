"""Results of benchmarks lie in JSON files, two of which are held against each other: `python -m benchmarks.results OLD NEW`."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd
import torch

from robust_lowrank import UserError
from robust_lowrank.provenance import machine
from robust_lowrank.records import replacing

WORSE = 0.1  # by which a ratio may grow before the comparison fails


class Change(NamedTuple):
    """A ratio in two files; the smaller one is the better."""

    benchmark: str
    case: str
    ratio: str
    old: float
    new: float

    @property
    def by(self) -> float:
        """The growth, as a part of the old value."""
        return self.new / self.old - 1


def save(path: Path, tables: dict[str, tuple[ModuleType, pd.DataFrame]]) -> None:
    """Write tables by the benchmarks' names, beside those of other benchmarks that the file has."""
    known = load(path)["benchmarks"] if path.exists() else {}
    for name, (module, table) in tables.items():
        key, ratios = getattr(module, "KEY", ()), getattr(module, "RATIOS", ())
        rows = json.loads(table.to_json(orient="records"))
        known[name] = {
            "about": module.__doc__,
            "key": key,
            "ratios": ratios,
            "rows": rows,
            "machine": machine(),
            "torch": torch.__version__,
        }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"benchmarks": known}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """Return what a file holds.

    Raises:
        UserError: it is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["benchmarks"], dict):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no results of benchmarks: name a file that 'make bench' has written") from error
    return found


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Yield the ratios of cases that both files have."""
    for name, table in new["benchmarks"].items():
        before = {_case(table, row): row for row in old["benchmarks"].get(name, {"rows": []})["rows"]}
        for row in table["rows"]:
            case = _case(table, row)
            for ratio in table["ratios"]:
                values = [_number(each.get(ratio)) for each in (before.get(case, {}), row)]
                if values[0] and values[1] is not None:
                    yield Change(name, case, ratio, values[0], values[1])


def _case(table: dict[str, Any], row: dict[str, Any]) -> str:
    return ", ".join(f"{row.get(key)}" for key in table["key"])


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    try:
        found = sorted(changes(load(options.old), load(options.new)), key=lambda change: -change.by)
    except UserError as error:
        parser.error(str(error))
    if not found:
        parser.error(f"{options.old} and {options.new} have no case in common")
    rows = [{**change._asdict(), "change": f"{change.by:+.1%}"} for change in found]
    print(pd.DataFrame(rows).to_markdown(index=False))
    worse = sum(change.by > WORSE for change in found)
    print(f"\n{worse} of {len(found)} ratios are more than {WORSE:.0%} larger than before")
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
