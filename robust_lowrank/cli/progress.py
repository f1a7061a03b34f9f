"""Events are shown as a live table on a terminal, a row a job with its bar and its last note; as plain lines elsewhere."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from robust_lowrank.jobs.events import Event

SILENCE = 20.0  # seconds after which a log hears how far work is, though nothing is to be noted of it


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
            TextColumn("{task.description}", markup=False, table_column=_shortened(3)),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}", style="dim", markup=False, table_column=_shortened(2)),
            console=console,
            expand=True,
            disable=not console.is_terminal,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, Event] = {}
        self._notes: dict[str, str] = {}
        self._heard: dict[str, float] = {}  # when a log has last heard of a job

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()
        if isinstance(error, KeyboardInterrupt):
            for text in self._unfinished():
                self._console.print(text, markup=False)

    def __call__(self, event: Event) -> None:
        """Show an event."""
        self._last[event.job] = event
        self._notes[event.job] = event.note or self._notes.get(event.job, "")
        for text in filter(None, (event.warning, "" if self._console.is_terminal else self._line(event))):
            self._console.print(f"{event.job}: {text}", markup=False)
        if not self._console.is_terminal:
            return
        if event.job not in self._tasks:
            self._tasks[event.job] = self._bars.add_task(event.job, total=event.total, said="")
        description = ", ".join(filter(None, (event.job, event.stage, event.state)))
        said = self._notes[event.job]
        self._bars.update(self._tasks[event.job], description=description, completed=event.done, total=event.total, said=said)

    def _line(self, event: Event) -> str:
        """Return what a log is to hear: a note, or after a silence how far the job is."""
        now = time.monotonic()
        if not event.note and now - self._heard.setdefault(event.job, now) < SILENCE:
            return ""
        self._heard[event.job] = now
        return event.note or ", ".join(filter(None, (event.stage, f"{event.done / event.total:.0%}", event.state)))

    def _unfinished(self) -> Iterator[str]:
        """Yield how far each job has come that has not ended."""
        for job, event in self._last.items():
            if event.done < event.total:
                note = f"; last: {self._notes[job]}" if self._notes[job] else ""
                yield f"{job}: stopped in {event.stage} at {event.done / event.total:.0%}{note}"


def _shortened(ratio: int) -> Column:
    """Return a column of one line, which is cut where the terminal is narrow, so that the bar beside it is seen."""
    return Column(ratio=ratio, no_wrap=True, overflow="ellipsis")
