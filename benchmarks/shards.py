"""an attack in shards: seconds of the longest one, measured and as a model has them, over those of the whole; and 1,000 machines"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from robust_lowrank import records, training
from robust_lowrank.records import RunFiles

COMMAND = "from robust_lowrank.cli import main; main()"
SUITE, EPS, EXAMPLES, BATCH = "aa-native", 0.12, 500, 4
MEASURED = (2, 4, 8)
FLEET, IMAGES, SECONDS = 1000, 50_000, 1.0  # machines; examples, and what one takes of them on average, as on a large network
LATENCY, LOST, DRAWS = 0.05, 0.01, 200  # seconds to write or read a unit of an object store; shards that a machine loses; repeats
KEY = ("machines",)


class Fleet(NamedTuple):
    """What machines cost beside their examples."""

    start: float  # seconds until the first example: imports, network, clean pass
    latency: float = 0.0  # of a unit's write, and of its read when all are joined
    lost: float = 0.0  # the probability that a shard is lost half-way and begun again


def longest(costs: np.ndarray, machines: int, fleet: Fleet, draw: np.random.Generator) -> tuple[float, float]:
    """Return the seconds of the longest of several shards, and of the mean one.

    Args:
        costs: the seconds of each batch, in their order: a shard is a part of them.
    """
    edges = [number * len(costs) // machines for number in range(machines + 1)]
    shares = np.add.reduceat(costs + fleet.latency, edges[:-1])
    again = draw.random(machines) < fleet.lost
    seconds = (
        fleet.start + shares + again * (fleet.start + fleet.latency)
    )  # finished units stay: half of the share is not done again
    return float(seconds.max()), float(seconds.mean())


def run() -> pd.DataFrame:
    """Return a row a number of machines; each shard runs alone on this one."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        made = place / "run"
        config = {"data": {"name": "digits"}, "model": {"name": "cnn"}, "training": {"epochs": 3}, "method": {"name": "condlr"}}
        training.train(training.TrainConfig.model_validate(config), made)
        whole = _seconds(made)
        result = RunFiles(made).result(SUITE)
        costs = records.read_frame(result.verdicts, records.VERDICTS).groupby("example")["seconds"].sum().to_numpy()
        batches = np.add.reduceat(costs, range(0, len(costs), BATCH))
        fleet, draw = Fleet(start=whole - float(costs.sum())), np.random.default_rng(0)
        rows = [_row(1, whole, whole, whole)]
        for machines in MEASURED:
            result.root.rename(place / f"before-{machines}")
            measured = max(_seconds(made, "--shard", f"{number}/{machines}") for number in range(1, machines + 1))
            joined = _seconds(made)
            modelled, _ = longest(batches, machines, fleet, draw)
            rows.append(_row(machines, whole, measured, modelled, joined))
    scale = SECONDS / costs.mean()
    large = Fleet(10 * fleet.start, LATENCY, LOST)
    drawn = [longest(scale * draw.choice(batches, IMAGES // BATCH), FLEET, large, draw) for _ in range(DRAWS)]
    slowest, mean = np.median(np.array(drawn), axis=0)
    rows.append(_row(FLEET, SECONDS * IMAGES, None, slowest, IMAGES / BATCH * LATENCY, mean))
    return pd.DataFrame(rows)


def _row(
    machines: int, whole: float, measured: float | None, modelled: float, joined: float | None = None, mean: float | None = None
) -> dict[str, object]:
    return {
        "machines": machines,
        "longest over whole": "" if measured is None else f"{measured / whole:.3g}",
        "as modelled": f"{modelled / whole:.3g}",
        "of an even division": f"{1 / machines:.3g}",
        "join, seconds": "" if joined is None else f"{joined:.0f}",
        "longest over mean": "" if mean is None else f"{modelled / mean:.2f}",
    }


def _seconds(made: Path, *options: object) -> float:
    """Return how long an attack on a run takes, in a fresh process."""
    attack = ("attack", made, "--suite", SUITE, "--eps", EPS, "--n", EXAMPLES, "--batch-size", BATCH, "--workers", 1, *options)
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", COMMAND, *map(str, attack)], check=True, capture_output=True)
    return time.perf_counter() - started
