"""Run every benchmark and print its table: `python -m benchmarks [NAME ...]`."""

import argparse

import torch

from benchmarks import adapters, attacks, audit, compile, layers, load, merged, monitor, passes, precision, steps, training
from robust_lowrank import UserError
from robust_lowrank.provenance import machine

BENCHMARKS = {
    "layers": layers,
    "merged": merged,
    "compile": compile,
    "steps": steps,
    "precision": precision,
    "monitor": monitor,
    "training": training,
    "adapters": adapters,
    "audit": audit,
    "attacks": attacks,
    "passes": passes,
    "load": load,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(BENCHMARKS)}; all by default")
    chosen = parser.parse_args().names
    names = chosen or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    print(f"{machine()}, torch {torch.__version__}")
    for name in names:
        print(f"\n## {name}: {BENCHMARKS[name].__doc__}\n")
        try:
            print(BENCHMARKS[name].run().to_markdown(index=False))
        except UserError as error:  # a package to compare with is missing
            if chosen:
                parser.error(str(error))
            print(f"NOT RUN: {error}")


if __name__ == "__main__":
    main()
