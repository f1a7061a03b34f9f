"""Hostile things are given to every command that takes them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.hostile.commands import KINDS, Survey, prepared


class Given(NamedTuple):
    """What became of commands that were given hostile things of one kind."""

    kind: str
    things: int
    given: int  # how often one was given to a command
    survived: int  # how often it ended as it must
    seconds: float  # that one took at most
    growth: int  # bytes of one at most
    faults: list[str]


def give(things: int) -> Iterator[Given]:
    """Give so many hostile things of each kind to all their commands."""
    with TemporaryDirectory(prefix="hostile-") as folder:
        prepared(whole := Path(folder) / "whole" / "place")
        survey = Survey(whole, Path(folder) / "work")
        for kind, (makers, commands) in KINDS.items():
            names = list(islice(makers, things))
            tried = [(name, each) for name in names for each in survey.tried(kind, name, commands)]
            faults = [f"{name}, {each.command}: {fault}" for name, each in tried for fault in each.faults]
            seconds, growth = (max(getattr(each.ended, what) for _, each in tried) for what in ("seconds", "growth"))
            yield Given(kind, len(names), len(tried), sum(not each.faults for _, each in tried), seconds, growth, faults)
