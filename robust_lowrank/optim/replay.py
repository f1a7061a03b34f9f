"""Evaluations within a step repeat on the same network."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def repeatable(model: nn.Module) -> Iterator[None]:
    """Put back the random state and all running statistics after an evaluation that the next one repeats."""
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for buffer, value in statistics:
            buffer.copy_(value)
