"""Evaluations within a step repeat on the same network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def repeatable(model: nn.Module) -> Iterator[None]:
    """Put back the random state and all running statistics after an evaluation that the next one repeats."""
    go_back = moment(model)
    try:
        yield
    finally:
        go_back()


def moment(model: nn.Module) -> Callable[[], None]:
    """Return a function that puts the random state and all running statistics back to where they are now."""
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    cpu, others = torch.get_rng_state(), [(device, torch.cuda.get_rng_state(device)) for device in devices]

    def go_back() -> None:
        for buffer, value in statistics:
            buffer.copy_(value)
        torch.set_rng_state(cpu)
        for device, state in others:
            torch.cuda.set_rng_state(state, device)

    return go_back
