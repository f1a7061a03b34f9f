"""Commands are killed at random times, as batch systems and full memories do, and given again until they end."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil

from tests.reliability.commands import Scenario, Stage, apart, outcome, run, started, states

ORPHANS = 20.0  # seconds in which workers notice that their command is gone


class Kills(NamedTuple):
    """How often a command was killed, and what was wrong afterwards."""

    scenario: str
    killed: int
    resumed: int  # times that it was given again and came to its end
    faults: list[str]


def kill(scenario: Scenario, times: int, stage: Stage, *, seed: int = 0) -> Kills:
    """Kill a command so many times, up to three times before it may end."""
    draw = random.Random(seed)
    with TemporaryDirectory(prefix="kills-") as folder:
        place = Path(folder) / "place"
        stage.fresh(scenario, place)
        begun = time.monotonic()
        code, took = run(scenario.command, place), time.monotonic() - begun
        expected = apart(outcome, place)
        faults = [f"without any fault it ended with {code}"] if code else []
        killed = resumed = 0
        while killed < times:
            stage.fresh(scenario, place)
            for _ in range(draw.randint(1, 3)):
                hit, orphans = _kill_once(scenario, place, draw.uniform(0, took))
                killed += hit
                faults += [f"{orphans} workers lived on"] if orphans else []
                faults += apart(states, place)
            code = run(scenario.command, place)
            said = (place / "said").read_text()
            resumed += 1
            faults += [f"given again it ended with {code}: {said[-300:]}"] if code else []
            faults += ["a traceback"] if "Traceback" in said else []
            faults += [f"{name} is another" for name in _differences(expected, apart(outcome, place))]
            faults += [f"{path} was left" for path in place.rglob("*.rlr-part")]
    return Kills(scenario.name, killed, resumed, faults)


def _kill_once(scenario: Scenario, place: Path, delay: float) -> tuple[bool, int]:
    """Kill a command after a while; return whether it was still running, and how many of its workers outlived it."""
    process = started(scenario.command, place)
    process.join(delay)
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    hit = process.is_alive()
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return hit, len(psutil.wait_procs(family, timeout=ORPHANS)[1])


def _differences(expected: dict[str, object], found: dict[str, object]) -> Iterator[str]:
    yield from (name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name))
