"""Jobs in parallel processes, each with its share of the cores, and their events in the process that started them."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing import connection, get_context, parent_process
from multiprocessing.queues import Queue
from queue import Empty
from typing import Any

import torch

from robust_lowrank.cli.pipeline import Job, Part, parts, perform, perform_part
from robust_lowrank.cli.progress import Event, Report, Throttled
from robust_lowrank.errors import UserError

_WAIT = 0.1  # seconds between looks at the workers


def default_workers(jobs: int) -> int:
    """Return how many processes suit so many jobs: one a core, and one alone where a GPU does the work."""
    return 1 if torch.cuda.is_available() else max(1, min(jobs, _cores()))


def check_workers(workers: int | None) -> None:
    """Require a worker, where their number is given.

    Raises:
        UserError: there is none.
    """
    if workers is not None and workers < 1:
        raise UserError(f"{workers} workers do nothing: give at least one")


def threads_each(workers: int) -> int:
    """Return how many threads a worker has, so that all together are no more than the cores."""
    return max(1, _cores() // workers)


def perform_all(jobs: Sequence[Job], *, workers: int | None, report: Report) -> list[str | None]:
    """Do all jobs, and return for each why its training failed, if it did: the others are done all the same.

    Where there are two workers a job or more, they share the examples of each attack on a trained run. After any other failure none
    is begun, those under way are finished, and the failure is raised.

    Raises:
        UserError: there is no worker, or a job found something that the user can mend.
    """
    check_workers(workers)
    count = default_workers(len(jobs)) if workers is None else workers
    shared = parts(jobs, count)
    count = min(count, max(len(jobs), len(shared)))
    if count == 1:
        return [perform(job, report) for job in jobs]
    context = get_context("spawn")  # a forked child cannot use CUDA, and may inherit a lock that a thread of torch holds
    events: Queue[Event] = context.Queue()
    begin = (events, threads_each(count))
    with ProcessPoolExecutor(count, mp_context=context, initializer=_Worker.begin, initargs=begin) as pool:
        try:
            _watch([pool.submit(_Worker.perform_part, part) for part in shared], events, report)
            futures = [pool.submit(_Worker.perform, job) for job in jobs]
            _watch(futures, events, report)
        finally:
            pool.shutdown(cancel_futures=True)
    return [future.result() for future in futures]


def _cores() -> int:
    return os.cpu_count() or 1


def _watch(futures: Sequence[Future[Any]], events: "Queue[Event]", report: Report) -> None:
    pending: set[Future[Any]] = set(futures)
    while pending:
        done, pending = wait(pending, timeout=_WAIT, return_when="FIRST_COMPLETED")
        _drain(events, report)
        for future in done:
            future.result()


def _drain(events: "Queue[Event]", report: Report) -> None:
    while True:
        try:
            report(events.get_nowait())
        except Empty:
            return


class _Worker:
    """What a worker process keeps from one job to the next: where its events go."""

    report: Report

    @classmethod
    def begin(cls, events: "Queue[Event]", threads: int) -> None:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        torch.set_num_threads(threads)
        cls.report = Throttled(events.put)

    @classmethod
    def perform_part(cls, part: Part) -> None:
        perform_part(part, cls.report)

    @classmethod
    def perform(cls, job: Job) -> str | None:
        return perform(job, cls.report)


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however it went: nobody waits for the work any more."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
