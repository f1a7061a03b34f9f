"""Measure every property over fixed seeds and write docs/conformance.md: `python -m tests.conformance`."""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.progress import track

from robust_lowrank.provenance import machine, versions
from tests.conformance.cases import METHODS
from tests.conformance.properties import PROPERTIES, Property

SEEDS = range(10)
OUT = Path("docs/conformance.md")
HEAD = """# Conformance

What each method's paper promises, measured: the largest error over {seeds} layers of random shape and rank (linear layers, and
convolutions of random stride, padding, dilation, bias and kernel, 1 x 1 and rectangular ones among them; kernels in Tucker
form for TDLRT and RobustDLRT), or over as many small networks, and over one to three whole trainings. Errors of
weights are relative. Written by `make conformance`; the same properties are tests (`tests/conformance/`), there with seeds that
hypothesis draws.
[What the numbers T1 to T36 stand for](methods.md#how-it-is-tested).

{machine}; Python {versions[python]}, torch {versions[torch]}, robust-lowrank {versions[robust-lowrank]}.

"""


def worst(found: Property, method: str, kinds: Iterable[str], dtype: torch.dtype) -> float:
    return max(found.measure(METHODS.get(method), kind, dtype, seed) for kind in kinds for seed in SEEDS[: found.seeds])


def rows(found: Property) -> Iterable[str]:
    for method in found.methods:
        kinds = [kind for name, kind in found.cases() if name == method]
        double = worst(found, method, kinds, torch.float64)
        single = "" if found.short_tolerance is None else f"{worst(found, method, kinds, torch.float32):.1e}"
        where = ", ".join(kinds) if kinds != [""] else ""
        yield f"| {method or 'all'} | {where} | {double:.1e} | {single} |"


def main() -> int:
    parts = [HEAD.format(seeds=len(SEEDS), machine=machine(), versions=versions())]
    failed = []
    for found in track(PROPERTIES, "properties"):
        short = "" if found.short_tolerance is None else f", in float32 {found.short_tolerance:g}"
        lines = list(rows(found))
        parts.append(f"## {found.number}: {found.claim}\n\nAllowed: {found.tolerance:g}{short}.\n\n")
        parts.append("| method | layers, settings | float64 | float32 |\n| --- | --- | --- | --- |\n" + "\n".join(lines) + "\n\n")
        columns = ((3, found.tolerance), (4, found.short_tolerance))
        errors = [(line.split("|")[place].strip(), allowed) for line in lines for place, allowed in columns]
        if any(error and float(error) > allowed for error, allowed in errors if allowed is not None):
            failed.append(found.claim)
    OUT.write_text("".join(parts).rstrip() + "\n")
    sys.stdout.write(f"{OUT} written; outside their tolerance: {failed or 'none'}\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
