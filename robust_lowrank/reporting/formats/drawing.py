"""Charts are drawn by an engine in a process of its own; one that dies or hangs is replaced, and says what it has not drawn."""

import atexit
import json
import subprocess
import sys
import threading
from functools import cache
from typing import Any

from robust_lowrank.errors import shown
from robust_lowrank.reporting.formats import engine

SECONDS = 60.0  # that one thing may take
PATIENCE = 3  # engines that may fail one after another before no further one is tried


class NotDrawnError(Exception):
    """The engine has not drawn something; the message says why."""


class Engine:
    """A process that draws, started when it is wanted and again when it has died.

    Example:
        >>> Engine().do("script", snippet="", version="6.4")[:9]  # doctest: +SKIP
        'var Mw=Ob'
    """

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-P", engine.__file__), *, seconds: float = SECONDS) -> None:
        self._command, self._seconds = command, seconds
        self._process: subprocess.Popen[str] | None = None
        self._failures = 0
        atexit.register(self.close)

    def do(self, what: str, **values: Any) -> Any:
        """Return what the engine makes of some values.

        Raises:
            NotDrawnError: it has refused them, died over them, or taken too long.
        """
        if self._failures >= PATIENCE:
            raise NotDrawnError("the chart engine fails on this machine")
        try:
            answer = json.loads(self._ask(json.dumps({"what": what, **values})))
        except (OSError, ValueError) as error:
            self.close()
            self._failures += 1
            raise NotDrawnError("the chart engine died, or took too long") from error
        self._failures = 0
        if "refused" in answer:
            raise NotDrawnError(f"the chart engine refused it: {shown(answer['refused'])[:200]}")
        return answer["done"]

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _ask(self, line: str) -> str:
        if self._process is None:
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(
                self._command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(self._seconds, process.kill)
        limit.start()
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return process.stdout.readline()
        finally:
            limit.cancel()


@cache
def shared_engine() -> Engine:
    """Return the engine of this process, which all its reports share: its start takes longer than a chart."""
    return Engine()
