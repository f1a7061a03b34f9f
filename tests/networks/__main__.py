"""Count what becomes of the matrices of every network, print it, and write it to docs/networks.md: `python -m tests.networks`."""

import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from rich.progress import track

from tests.networks.count import count
from tests.networks.zoo import FULL

OUT = Path("docs/networks.md")
HEAD = "| network | chains | merged | by choice | left dense | parameters, at rank 0.25 |"
PACKAGES = ("torch", "torchvision", "timm", "transformers", "robust-lowrank")


def rows() -> Iterable[str]:
    yield HEAD
    yield "| --- |" + " ---: |" * 5
    for name, network in track(FULL.items(), "networks", transient=True):
        found = count(network)
        sizes = f"{found.before / 1e6:,.1f} → {found.after / 1e6:,.1f} M"
        yield f"| {' | '.join(map(str, (name, found.chains, found.merged, found.chosen, f'{found.left:.1%}', sizes)))} |"


def main() -> None:
    table = "\n".join(rows())
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    text = OUT.read_text().partition(HEAD)[0]
    OUT.write_text(f"{text}{table}\n\n{versions}.\n")
    sys.stdout.write(f"{table}\n")


if __name__ == "__main__":
    main()
