"""Tasks run in processes of this machine, each with its share of the cores; with one worker, in this process."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any, Self

import torch

from robust_lowrank.errors import TrainingError
from robust_lowrank.jobs.events import Event, Report, Throttled
from robust_lowrank.jobs.executors import Task

MOST = 4  # workers a core
_WAIT = 0.1  # seconds between looks at the workers


class Executor:
    """See `executors.Executor`."""

    def __init__(self, workers: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._futures: list[Future[Any]] = []
        self._waiting: list[Task] = []
        if workers > 1:
            context = get_context("spawn")  # a forked child cannot use CUDA, and may inherit a lock that a thread of torch holds
            with _signals_held():  # the process that keeps account of shared resources is started here
                self._events: Queue[Event | None] = context.Queue()
                stop, self._stop = context.Pipe(duplex=False)
            begin = (self._events, stop, threads_each(workers))
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_Worker.begin, initargs=begin)

    @classmethod
    def default_workers(cls, tasks: int) -> int:
        """Return one worker a core, and one alone where a GPU does the work."""
        return 1 if torch.cuda.is_available() else max(1, min(tasks, _cores()))

    @classmethod
    def most_workers(cls) -> int:
        """Return four a core."""
        return MOST * _cores()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            if kind is not None and issubclass(kind, KeyboardInterrupt):
                self._stop.send(None)  # what is under way may take hours, and is begun again from what it has stored
            self._pool.shutdown(cancel_futures=True)

    def submit(self, task: Task) -> None:
        """Take a task."""
        if self._pool is None:
            self._waiting.append(task)
        else:
            with _signals_held():
                self._futures.append(self._pool.submit(_Worker.perform, task))

    def gather(self, report: Report) -> list[Any]:
        """Wait for all tasks, and return their results."""
        if self._pool is None:
            tasks, self._waiting = self._waiting, []
            return [task(report) for task in tasks]
        futures, self._futures = self._futures, []
        try:
            _watch(futures, self._events, report)
        except BrokenProcessPool as error:
            raise TrainingError(
                "a worker process was killed, as systems do where memory runs out: what is finished is kept, and the same command "
                "goes on; fewer workers need less memory"
            ) from error
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def cancel(self) -> None:
        """Drop the tasks that have not begun."""
        self._waiting.clear()
        for future in self._futures:
            future.cancel()
        self._futures = [future for future in self._futures if not future.cancelled()]


def threads_each(workers: int) -> int:
    """Return how many threads a worker has, so that all together are no more than the cores."""
    return max(1, _cores() // workers)


def _cores() -> int:
    return os.cpu_count() or 1


def _watch(futures: Sequence[Future[Any]], events: "Queue[Event | None]", report: Report) -> None:
    """Pass on events until all tasks have ended; each puts None after its last event, which may arrive after its result."""
    pending: set[Future[Any]] = set(futures)
    ended = 0
    while pending or ended < len(futures):
        done, pending = wait(pending, timeout=_WAIT, return_when="FIRST_COMPLETED")
        ended += _drain(events, report, wait=0 if pending else _WAIT)
        for future in done:
            future.result()


def _drain(events: "Queue[Event | None]", report: Report, wait: float) -> int:
    """Pass on the events that are there, and return how many tasks have ended."""
    ended = 0
    while True:
        try:
            event = events.get(timeout=wait)
        except Empty:
            return ended
        if event is None:
            ended += 1
        else:
            report(event)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back for a while: processes that are started meanwhile never see any.

    Those by which a process is stopped reach all of a terminal or a batch job; the process that started the workers tells them.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """A worker process, which sends events to the process that started it."""

    events: "Queue[Event | None]"

    @classmethod
    def begin(cls, events: "Queue[Event | None]", stop: "connection.Connection", threads: int) -> None:
        threading.Thread(target=_end_with_parent, args=(stop,), daemon=True).start()
        torch.set_num_threads(threads)
        cls.events = events

    @classmethod
    def perform(cls, task: Task) -> Any:
        try:
            return task(Throttled(cls.events.put))
        finally:
            cls.events.put(None)


def _end_with_parent(stop: "connection.Connection") -> None:
    """End this process as soon as the one that started it says so or is gone, however it went: nobody waits for the work then."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel, stop])
    os._exit(1)
