"""Importing the package takes hardly longer than importing torch."""

import os
import statistics
import subprocess
import sys

import pytest

ROUNDS = 5
STATEMENTS = ("import torch", "import robust_lowrank")


def seconds(statement: str) -> float:
    """Return the processor time of a fresh process, which others beside it change less than the time of the clock."""
    before = os.times()
    subprocess.run([sys.executable, "-c", statement], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.slow
def test_it_takes_at_most_a_seventh_more_than_torch() -> None:
    times = [[seconds(statement) for statement in STATEMENTS] for _ in range(ROUNDS)]
    torch, package = (statistics.median(each) for each in zip(*times, strict=True))
    assert package <= 1.15 * torch, f"{package:.2f} s of processor time, torch {torch:.2f} s"
