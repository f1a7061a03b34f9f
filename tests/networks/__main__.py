"""Count what becomes of the matrices of every network, print it, and write it to docs/networks.md: `python -m tests.networks`."""

import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from rich.progress import track

from tests.networks.count import count
from tests.networks.zoo import FULL

OUT = Path("docs/networks.md")
HEAD = "| network | matrices | chains | merged | kept by choice | left dense | parameters | at rank 0.25 |"
PACKAGES = ("torch", "torchvision", "timm", "transformers", "robust-lowrank")


def millions(number: int) -> str:
    return f"{number / 1e6:,.1f} M"


def rows() -> Iterable[str]:
    yield HEAD
    yield "| --- |" + " ---: |" * 7
    for name, network in track(FULL.items(), "networks", transient=True):
        found = count(network)
        numbers = (found.matrices, found.chains, found.merged, found.chosen, f"{found.left:.1%}")
        yield f"| {' | '.join(map(str, (name, *numbers, millions(found.before), millions(found.after))))} |"


def main() -> None:
    table = "\n".join(rows())
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    text = OUT.read_text().partition(HEAD)[0]
    OUT.write_text(f"{text}{table}\n\n{versions}.\n")
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    main()
