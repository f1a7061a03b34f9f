"""What a call costs, in a process of its own: seconds, growth in memory, and how it ended."""

import os
import resource
import time
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import NamedTuple

from robust_lowrank.errors import UserError


class Cost(NamedTuple):
    """Seconds of the wall clock, bytes by which the process grew, and what the call raised, "" if it returned."""

    seconds: float
    growth: int
    said: str
    refused: bool  # with a UserError


def cost(call: Callable[[], object]) -> Cost:
    """Make a call in a fork of this process, which pays for no imports."""
    here, there = Pipe()
    child = os.fork()
    if not child:
        there.send(_made(call))
        os._exit(0)
    there.close()
    try:
        return here.recv()
    finally:
        os.waitpid(child, 0)


def _made(call: Callable[[], object]) -> Cost:
    before, started = resident(), time.monotonic()
    try:
        call()
        said, refused = "", False
    except BaseException as error:
        said, refused = f"{type(error).__name__}: {error}", isinstance(error, UserError)
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(time.monotonic() - started, most - before, said, refused)


def resident() -> int:
    """Return the bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
