"""Jobs are done side by side by an executor."""

from collections.abc import Sequence
from functools import partial

from robust_lowrank.jobs.chain import Job
from robust_lowrank.jobs.events import Report
from robust_lowrank.jobs.executors import Executor, find_executor
from robust_lowrank.jobs.parts import parts, perform_part, shard_parts
from robust_lowrank.jobs.performing import Outcome, perform
from robust_lowrank.jobs.shards import Shard
from robust_lowrank.ranges import Range


def check_workers(workers: int | None, executor: type[Executor]) -> None:
    """Require a worker, and no more than an executor can use, where their number is given.

    Raises:
        UserError: there is none, or more than that.
    """
    if workers is not None:
        Range(1, executor.most_workers()).require("workers", workers)


def perform_all(jobs: Sequence[Job], *, executor: str, workers: int | None, report: Report) -> list[Outcome]:
    """Do all jobs, and return what became of each: where a training failed, the others are done all the same.

    Where there are two workers a job or more, they share the examples of each attack on a trained run. After any other failure none
    is begun, those under way are finished, and the failure is raised.

    Raises:
        UserError: there is no worker or no such executor, or a job found something that the user can mend.
    """
    kind = find_executor(executor)
    check_workers(workers, kind)
    count = kind.default_workers(len(jobs)) if workers is None else workers
    shared = parts(jobs, count)
    with kind(min(count, max(len(jobs), len(shared)))) as running:
        for part in shared:
            running.submit(partial(perform_part, part))
        running.gather(report)
        for job in jobs:
            running.submit(partial(perform, job))
        return running.gather(report)


def perform_shard(jobs: Sequence[Job], shard: Shard, *, executor: str, workers: int | None, report: Report) -> None:
    """Attack a part of the examples of each run, and leave what is finished where the attack of all looks for it.

    Raises:
        UserError: as `perform_all`.
    """
    kind = find_executor(executor)
    check_workers(workers, kind)
    count = kind.default_workers(len(jobs)) if workers is None else workers
    shared = shard_parts(jobs, shard, count)
    with kind(min(count, len(shared))) as running:
        for part in shared:
            running.submit(partial(perform_part, part))
        running.gather(report)
