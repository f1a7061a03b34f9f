"""Events tell how far work is, wherever it runs."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

READING = "reading images"  # a stage
NOTED = 10_000  # images, after which a note says how many are read


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


def quiet(event: Event) -> None:
    """Show nothing."""


def reading(job: str, report: Report) -> Callable[[int, int], None]:
    """Return what turns the number of images that are read into events, now and then with a note."""

    def tell(done: int, total: int) -> None:
        note = "" if done % NOTED else f"{done:,} of {total:,} images read"
        report(Event(job, READING, done, total, note))

    return tell


def remark(job: str, remarks: Iterable[str], report: Report) -> None:
    """Tell what was done to the images, whatever is shown of them else."""
    for text in remarks:
        report(Event(job, READING, 1, 1, warning=text))


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
