"""Events tell how far work is, wherever it runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One job's progress: `done` of `total` in a stage; `note` is for logs, if it is not empty.

    `warning` is to be seen in any case; `state` is what a live display shows beside the stage.
    """

    job: str
    stage: str
    done: int
    total: int
    note: str = ""
    state: str = ""
    warning: str = ""


Report = Callable[[Event], None]


class Throttled:
    """Passes on events with a note or warning or at the end of a stage, and of the others at most ten a second."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = float("-inf")

    def __call__(self, event: Event) -> None:
        """Pass the event on, or drop it."""
        now = time.monotonic()
        if event.note or event.warning or event.done >= event.total or now - self._last >= 0.1:
            self._last = now
            self._report(event)
