"""Disks are full at chosen points of a command: in a small file system of its own, of which all but a little is taken."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.reliability.commands import SCENARIOS, Stage, apart, outcome, run, states

SIZE = 64 << 20  # bytes of the file system
INSIDE = "import sys; from tests.reliability.disks import inside; inside(sys.argv[1], int(sys.argv[2]))"


class Disks(NamedTuple):
    """At how many points the disk was full for a command, and what was wrong afterwards."""

    scenario: str
    full: int
    resumed: int
    faults: list[str]


def fill(name: str, points: int) -> Disks:
    """Run a command on disks with more and more room, until so many were full.

    Raises:
        RuntimeError: this system lets nobody mount a file system of his own.
    """
    mount = f'mount -t tmpfs -o size={SIZE} none /mnt && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", INSIDE, name, str(points)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"no file system could be made full here: {done.stderr[-300:]}")
    return Disks(*json.loads(done.stdout.splitlines()[-1]))


def inside(name: str, points: int) -> None:
    """Do what `fill` says, where /mnt is the small file system."""
    scenario, place = SCENARIOS[name], Path("/mnt/place")
    full, resumed, faults = 0, 0, []
    with Stage() as stage:
        stage.fresh(scenario, place)
        before = _used()
        run(scenario.command, place)
        expected, needed = apart(outcome, place), max(_used() - before, 1 << 16)
        for point in range(points):
            stage.fresh(scenario, place)
            room = needed * (point + 1) // (points + 1)
            Path("/mnt/filler").write_bytes(bytes(max(0, SIZE - _used() - room)))
            code = run(scenario.command, place)
            said = (place / "said").read_text() if (place / "said").exists() else ""
            Path("/mnt/filler").unlink()
            if code:
                full += 1
                faults += [] if code == 1 else [f"it ended with {code}"]
                faults += ["a traceback"] if "Traceback" in said else []
                faults += [] if "make room" in said or not said else [f"it said {said[-200:]!r}"]
            faults += apart(states, place)
            code = run(scenario.command, place)
            resumed += not code
            faults += [f"given again it ended with {code}: {(place / 'said').read_text()[-300:]}"] if code else []
            faults += [f"{key} is another" for key, value in apart(outcome, place).items() if expected.get(key) != value]
    sys.stdout.write(f"\n{json.dumps([name, full, resumed, faults])}\n")


def _used() -> int:
    stat = os.statvfs("/mnt")
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize
