"""The commands that are disturbed, and what they must have come to in the end, disturbed or not."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from tests.experiments import TINY

VOLATILE = ["seconds", "source_created"]  # columns that no two runs of a command agree in


class Scenario(NamedTuple):
    """A command, given in a directory that `prepare` has made from an empty one."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()  # the names of scenarios whose outcome it begins from


TRAIN = ("train", "--data", "digits", "--model", "mlp", "--method", "dlrt", "--train-examples", "400", "--epochs", "8")
ATTACK = ("attack", "run", "--suite", "quick", "--eps", "0.1", "--eps", "0.2", "--n", "60")
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("train", (*TRAIN, "--monitor-every", "3", "--out", "run")),
        Scenario("attack", ATTACK, ("train",)),
        Scenario("attack, two workers", (*ATTACK, "--workers", "2", "--batch-size", "10"), ("train",)),
        Scenario("attack, a shard", (*ATTACK, "--shard", "1/2", "--batch-size", "10"), ("train",)),
        Scenario("attack, forms", (*ATTACK, "--form", "merged,factors"), ("train",)),
        Scenario("certify", ("certify", "run", "--method", "smoothing", "--samples", "400", "--n", "100"), ("train",)),
        Scenario("report", ("report", "run", "--out", "report"), ("train", "attack", "certify")),
        Scenario("bench, two workers", ("bench", "tiny.toml", "--out", "bench", "--workers", "2")),
        Scenario("bench, a shard", ("bench", "tiny.toml", "--out", "bench", "--shard", "2/2", "--workers", "1")),
    )
}


def started(command: tuple[str, ...], place: Path) -> Any:
    """Return a process of its own that runs a command in a directory; everything it needs is already imported.

    It leads a session of its own, and what it says is in `place`/said.
    """
    process = get_context("fork").Process(target=_run, args=(command, place))
    process.start()
    return process


def run(command: tuple[str, ...], place: Path) -> int:
    """Run a command in a directory to its end, and return its exit code."""
    process = started(command, place)
    process.join()
    return process.exitcode


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns in a process of its own: this one must have no threads when it is forked."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply(function, arguments)


def outcome(place: Path) -> dict[str, Any]:
    """Return all that must be the same after a command, whatever has happened to it on the way."""
    return {str(path.relative_to(place)): value for path, value in _outcomes(place)}


def states(place: Path) -> list[str]:
    """Return what an inventory finds damaged or foreign in the runs of a directory."""
    from robust_lowrank.jobs.inventory import inventory

    bad = []
    for record in sorted(place.rglob("run.json")):
        if record.parent.parent.name not in ("forms", "new"):  # a form is part of its run's inventory
            bad += [f"{record.parent.name}: {item}" for item in inventory(record.parent) if item.state in ("damaged", "foreign")]
    return bad


class Stage:
    """Directories in which scenarios begin; each is made once."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="reliability-"))
        self._done: dict[tuple[str, ...], Path] = {}

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)

    def fresh(self, scenario: Scenario, place: Path) -> Path:
        """Make `place` the directory in which a scenario begins, and return it."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._after(scenario.needs), place)
        return place

    def _after(self, names: tuple[str, ...]) -> Path:
        if names not in self._done:
            place = Path(tempfile.mkdtemp(dir=self._root)) / "place"
            if names:
                shutil.copytree(self._after(names[:-1]), place)
                if code := run(SCENARIOS[names[-1]].command, place):
                    raise RuntimeError(f"{names[-1]} ended with {code}: {(place / 'said').read_text()[-500:]}")
            else:
                place.mkdir()
                (place / "tiny.toml").write_text(TINY)
            self._done[names] = place
        return self._done[names]


def _run(command: tuple[str, ...], place: Path) -> None:
    import signal

    from robust_lowrank.cli import main

    os.setsid()
    os.chdir(place)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = (os.fdopen(handle, "w", buffering=1, closefd=False) for handle in (1, 2))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    sys.argv = ["rlr-eval", *command]
    main()


def _outcomes(place: Path) -> Iterator[tuple[Path, Any]]:
    import pandas as pd

    from robust_lowrank.evaluation.unit_result import UnitResult

    for path in sorted(place.rglob("*.json")):
        if path.name == "run.json":
            record = json.loads(path.read_text())
            names = ("status", "epochs_done", "test_accuracy", "hashes", "behaviour", "parameters")
            yield path, {name: record[name] for name in names}
        elif path.name == "result.json":
            record = json.loads(path.read_text())
            yield path, {name: record[name] for name in ("accuracies", "hashes", "definition")}
        elif path.parent.name == "certificates":
            yield path, json.loads(path.read_text())["curve"]
    for path in sorted(place.rglob("*.parquet")):
        if path.parent.name not in ("report", "bench"):
            yield path, pd.read_parquet(path).drop(columns=VOLATILE, errors="ignore").to_json()
    for path in sorted(place.rglob("units/*.safetensors")):
        yield path, UnitResult.from_file(path) is not None
    for path in (path for name in ("report", "bench") for path in sorted((place / name).glob("*.*"))):
        yield path, path.stat().st_size > 0
