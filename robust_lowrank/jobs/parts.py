"""Several processes share the examples of one attack on one run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from robust_lowrank import data, evaluation
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.chain import Job, config_of, place_of, source_networks, subject_of, teller
from robust_lowrank.jobs.events import Report
from robust_lowrank.jobs.shards import Shard


@dataclass(frozen=True)
class Part:
    """A part of the examples of one attack on one run, for a process of its own."""

    job: Job
    attack: Attack
    index: int
    of: int


def parts(jobs: Sequence[Job], workers: int) -> list[Part]:
    """Return what several processes can do of attacks on runs that are trained, where each run has two or more.

    Attacks with a budget are left out: it is one for all examples, and spent in their order.
    """
    each = workers // len(jobs)
    if each < 2:
        return []
    shared = [(job, attack) for job in jobs if not job.train for attack in job.attacks if not attack.limited]
    return [Part(job, attack, index, each) for job, attack in shared for index in range(each)]


def shard_parts(jobs: Sequence[Job], shard: Shard, workers: int) -> list[Part]:
    """Return one shard of attacks on runs, for several processes."""
    each = max(1, workers // len(jobs))
    shared = [(job, attack) for job in jobs for attack in job.attacks]
    numbers = range((shard.index - 1) * each, shard.index * each)
    return [Part(job, attack, number, shard.of * each) for job, attack in shared for number in numbers]


def perform_part(part: Part, report: Report) -> None:
    """Do the units of one part, batches that follow each other, and leave them in the store, unless the result is there."""
    job, attack = part.job, part.attack
    subject = subject_of(job, attack, report)
    if place_of(job, attack, subject).kept is not None:
        return
    batches = torch.arange(len(subject.y)).split(attack.batch_size)
    first, end = (number * len(batches) // part.of for number in (part.index, part.index + 1))
    share = batches[first:end]
    tell = teller(f"{job.name}, part {part.index + 1} of {part.of}", f"{attack.suite.name} {attack.suite.norm}", report)
    if share:
        rows = torch.cat(share)
        config = config_of(subject, attack, offset=int(rows[0]))
        x, y = data.unit_range(subject.images[rows]), subject.y[rows]
        evaluation.prepare(subject.model, x, y, config, store=job.units(attack), sources=source_networks(attack), progress=tell)
