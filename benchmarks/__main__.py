"""Run every benchmark and print its table: `python -m benchmarks [NAME ...]`."""

import argparse

import torch

from benchmarks import adapters, layers, monitor, precision, steps, training
from robust_lowrank.provenance import machine

BENCHMARKS = {
    "layers": layers,
    "steps": steps,
    "precision": precision,
    "monitor": monitor,
    "training": training,
    "adapters": adapters,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    print(f"{machine()}, torch {torch.__version__}")
    for name in names:
        print(f"\n## {name}: {BENCHMARKS[name].__doc__}\n")
        print(BENCHMARKS[name].run().to_markdown(index=False))


if __name__ == "__main__":
    main()
