"""How far the work is: events from the work, shown as bars on a terminal and as plain lines elsewhere."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Event:
    """Where one job stands: `done` of `total` in a stage; `note` is what a log should keep of it, if anything.

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


class Board:
    """Shows events on stderr while it is entered.

    Example:
        >>> with Board() as board:
        ...     board(Event("CondLR", "training", 1, 2, note="epoch 1 of 2"))
    """

    def __init__(self) -> None:
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        for text in filter(None, (event.warning, "" if self._console.is_terminal else event.note)):
            self._console.print(f"{event.job}: {text}", markup=False)
        if not self._console.is_terminal:
            return
        if event.job not in self._tasks:
            self._tasks[event.job] = self._bars.add_task(event.job, total=event.total)
        description = ", ".join(filter(None, (event.job, event.stage, event.state)))
        self._bars.update(self._tasks[event.job], description=description, completed=event.done, total=event.total)


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
