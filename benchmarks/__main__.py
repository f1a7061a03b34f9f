"""Run benchmarks, print their tables and keep them: `python -m benchmarks [NAME ...]`."""

import argparse
from pathlib import Path

import torch

from benchmarks import (
    adapter_steps,
    adapters,
    attacks,
    audit,
    certificates,
    compile,
    curves,
    export,
    fast,
    fast_form,
    growth,
    layers,
    load,
    memory,
    merged,
    monitor,
    passes,
    precision,
    shards,
    steps,
    training,
)
from benchmarks.results import add, history, save
from robust_lowrank import UserError
from robust_lowrank.provenance import machine

BENCHMARKS = {
    "layers": layers,
    "merged": merged,
    "compile": compile,
    "export": export,
    "steps": steps,
    "adapter-steps": adapter_steps,
    "memory": memory,
    "growth": growth,
    "precision": precision,
    "monitor": monitor,
    "training": training,
    "adapters": adapters,
    "audit": audit,
    "certificates": certificates,
    "attacks": attacks,
    "passes": passes,
    "fast": fast,
    "fast-form": fast_form,
    "curves": curves,
    "load": load,
    "shards": shards,
}
SPEED = [name for name, module in BENCHMARKS.items() if hasattr(module, "RATIOS")]
RESULTS = Path("runs/benchmarks/results.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    listed = f"one or more of {', '.join(BENCHMARKS)}; by default those of speed: {', '.join(SPEED)}"
    parser.add_argument("names", nargs="*", metavar="NAME", help=listed)
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"where tables are kept, beside others (default: {RESULTS})")
    kept = "add a line with this run's tables to a file, such as benchmarks/history.jsonl"
    parser.add_argument("--history", type=history, metavar="FILE", help=kept)
    options = parser.parse_args()
    chosen = options.names
    names = chosen or SPEED
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    print(f"{machine()}, torch {torch.__version__}")
    tables = {}
    for name in names:
        print(f"\n## {name}: {BENCHMARKS[name].__doc__}\n")
        try:
            table = BENCHMARKS[name].run()
            print(table.to_markdown(index=False), flush=True)
            tables[name] = (BENCHMARKS[name], table)
            save(options.json, tables)
        except UserError as error:  # a package to compare with is missing
            if chosen:
                parser.error(str(error))
            print(f"NOT RUN: {error}")
    if options.history:
        add(options.history, tables)


if __name__ == "__main__":
    main()
