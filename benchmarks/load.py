"""seconds and peak memory of commands on 20 runs of 10,000 examples, 6 attacks and 5 eps, and of 100 layers over 10,000 steps"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.synthetic import monitor, write_run
from robust_lowrank import records
from robust_lowrank.records import RunFiles

BOUND = 2**30  # bytes of memory that a command may take at its peak, beyond those of torch alone
SUITE = """\
norm = "Linf"
eps = [0.02, 0.04, 0.06, 0.08, 0.1]

[[attacks]]
attack = "fgsm"
engine = "native"
""" + "".join(
    f"""
[[attacks]]
attack = "pgd"
engine = "native"
steps = {steps}
relative_step = 2.5
restarts = 1
random_start = true
"""
    for steps in range(2, 7)
)
CONTINUE = "from robust_lowrank import ParquetWriter; import sys; ParquetWriter(sys.argv[1]).flush()"
COMMAND = "from robust_lowrank.cli import main; main()"
LAUNCH = """
import os, subprocess, sys, time
start = time.perf_counter()
started = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(started.pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""  # a small process in between, as a process's peak counts the memory of the one that started it


class Size(NamedTuple):
    """How much is recorded: by how many runs, of how many examples, layers, epochs and steps of a monitor."""

    runs: int = 20
    examples: int = 10_000
    layers: int = 100
    epochs: int = 1_000
    steps: int = 10_000
    values: int = 16  # singular values of a layer


class Cost(NamedTuple):
    """What a command took: the peak of its largest process."""

    command: str
    seconds: float
    peak: int  # bytes


def measure(command: str, *arguments: object, code: str = "") -> Cost:
    """Run a command of `rlr-eval`, or some Python `code`, in a fresh process.

    Raises:
        RuntimeError: it failed.
    """
    given = [code, *arguments] if code else [COMMAND, command, *arguments]
    launched = subprocess.run([sys.executable, "-c", LAUNCH, *map(str, given)], capture_output=True, text=True, check=False)
    if launched.returncode:
        raise RuntimeError(f"{command} ended with {launched.returncode}: {launched.stderr}")
    seconds, peak = launched.stdout.split()
    return Cost(command, float(seconds), 1024 * int(peak))


def costs(place: Path, size: Size) -> Iterator[Cost]:
    """Write records of such a size under a directory, and yield what each command takes on them."""
    yield measure("import torch", code="import torch")
    runs = [write_run(place / f"run{number}", number, examples=size.examples) for number in range(size.runs)]
    yield measure("report", *runs, "--out", place / "report")
    yield measure("show", runs[0])
    long = write_run(place / "long", 0, layers=size.layers, epochs=size.epochs, values=size.values)
    history = monitor(np.random.default_rng(0), layers=size.layers, steps=size.steps, values=size.values)
    records.write_frame(RunFiles(long).monitor, history)
    del history
    yield measure("condition", long, "--out", place / "condition")
    yield measure("show", long)
    yield measure("continue", RunFiles(long).monitor, code=CONTINUE)
    yield from _attacked(place, size)


def _attacked(place: Path, size: Size) -> Iterator[Cost]:
    images, suite, run = place / "images.npz", place / "suite.toml", place / "attacked"
    generator = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 1000), ("test", size.examples)):
        labels = generator.integers(0, 10, count)
        arrays |= {f"{part}_x": generator.random((count, 1, 8, 8), dtype=np.float32), f"{part}_y": labels}
    np.savez(images, **arrays)  # pyright: ignore[reportArgumentType]
    suite.write_text(SUITE)
    measure("train", "--data", images, "--model", "mlp", "--epochs", 1, "--out", run)
    yield measure("attack", run, "--suite", suite, "--n", size.examples)
    yield measure("attack", run, "--suite", suite, "--n", size.examples)
    yield measure("verify", run)
    yield measure("show", run)


def table(found: Sequence[Cost]) -> pd.DataFrame:
    """Return the costs beside the bound; the first is that of torch alone, which reports do without."""
    rows = [
        {
            "command": cost.command,
            "seconds": f"{cost.seconds:.1f}",
            "peak, MiB": round(cost.peak / 2**20),
            "beside torch, MiB": max(0, round((cost.peak - found[0].peak) / 2**20)),
            "bound, MiB": BOUND // 2**20,
            "kept": "yes" if cost.peak - found[0].peak <= BOUND else "NO",
        }
        for cost in found
    ]
    return pd.DataFrame(rows)


def run() -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as place:
        return table(list(costs(Path(place), Size())))
