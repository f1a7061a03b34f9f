"""Results of benchmarks lie in JSON files, two of which are held against each other: `python -m benchmarks.results OLD NEW`.

A history has a line for every run that was added to it, and stands for the newest table of each benchmark in it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pandas as pd
import torch

from robust_lowrank import UserError
from robust_lowrank.provenance import machine
from robust_lowrank.records import now, replacing

WORSE = 0.1  # by which a ratio may grow before the comparison fails
HISTORY = ".jsonl"  # the ending of a file with a line a run

Tables = Mapping[str, tuple[ModuleType, pd.DataFrame]]  # by the benchmarks' names


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


def save(path: Path, tables: Tables) -> None:
    """Write tables beside those of other benchmarks that the file has."""
    known = load(path)["benchmarks"] if path.exists() else {}
    found = {"benchmarks": known | _described(tables)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def history(name: str) -> Path:
    """Return the file of a history by its name, which says that it is one."""
    if not name.endswith(HISTORY):
        raise argparse.ArgumentTypeError(f"a history's name ends with {HISTORY}")
    return Path(name)


def add(path: Path, tables: Tables) -> None:
    """Add a line to a history: the tables of one run, its date, and the version and commit that it was of."""
    run = {"date": now(), "version": metadata.version("robust-lowrank"), "commit": _commit(), "benchmarks": _described(tables)}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run, ensure_ascii=False) + "\n")


def _described(tables: Tables) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "about": module.__doc__,
            "key": getattr(module, "KEY", ()),
            "ratios": getattr(module, "RATIOS", ()),
            "rows": json.loads(table.to_json(orient="records")),
            "machine": machine(),
            "torch": torch.__version__,
        }
        for name, (module, table) in tables.items()
    }


def _commit() -> str:
    """Return the commit of the source tree, which "-dirty" follows where files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()


def load(path: Path) -> dict[str, Any]:
    """Return what a file holds, of a history the newest table of each benchmark.

    Raises:
        UserError: it is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        runs = [json.loads(line) for line in (text.splitlines() if path.suffix == HISTORY else [text])]
        found = {"benchmarks": {name: table for run in runs for name, table in run["benchmarks"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
