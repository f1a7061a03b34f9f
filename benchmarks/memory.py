"""by how much the memory of the CPU rises at most in one training step, in MiB, from the second step on"""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch

from benchmarks.steps import stepper

WAYS = ("dense", "bare", "condlr", "geolora", "geolora tol", "dlrt", "dlrt tol", "published condlr")
KEY, RATIOS = ("network", "batch"), WAYS[2:-1]
CASES = [("vgg11", 1), ("vgg11", 32), ("resnet20", 1), ("resnet20", 32)]


def peak(step: Callable[[], Any]) -> int:
    """Return by how many bytes the memory of the CPU rises at most during a step."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    results: Any = profile.profiler
    changes = sorted((each.start_ns(), each.nbytes()) for each in results.kineto_results.events() if each.name() == "[memory]")
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def rise(network: str, batch: int, way: str) -> float:
    """Return the rise in MiB; a first step leaves gradients behind, as every step does."""
    step = stepper(network, batch, way)
    step()
    return peak(step) / 2**20


def run() -> pd.DataFrame:
    cases = (
        {"network": network, "batch": batch} | {way: f"{rise(network, batch, way):.1f}" for way in WAYS} for network, batch in CASES
    )
    return pd.DataFrame(cases)
