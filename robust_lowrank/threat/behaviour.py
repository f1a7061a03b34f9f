"""The behaviour of a network is what it answers to a few keyed inputs, which its weights alone do not say."""

from collections.abc import Callable

import torch
from torch import Tensor

from robust_lowrank.threat.noise import KeyedNoise

OBSERVED = 8  # of each kind
KINDS = ("clean", "noisy", "random")
NUMBERS = 4  # that the logits of an input are projected on
NOISE = 0.05  # half the width of the noise


@torch.no_grad()
def observe(network: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, str]:
    """Return a network's answers to the first eight examples, to these with noise, and to inputs that no image file can hold.

    An answer is four keyed projections of the logits, as a text of numbers; `records.unlike` compares two of them. Random draws of
    the network itself are the same each time.

    Example:
        >>> observe(lambda x: x, torch.ones(1, 2))["clean"]
        '-1.41421 0 -1.41421 1.41421'

    Args:
        network: from inputs (N, ...) in [0, 1] to logits (N, classes).
        x: (N, ...), the examples.
    """
    first = x[:OBSERVED]
    noise = KeyedNoise(0, "behaviour", torch.arange(len(first), device=x.device))
    shape = tuple(first.shape[1:])
    uniform = noise.uniform(shape).to(x.dtype)
    inputs = {
        "clean": first,
        "noisy": (first + NOISE * (2 * uniform - 1)).clamp(0, 1),
        "random": noise.uniform(shape, stream=1).to(x.dtype),
    }
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return {kind: _projected(network(each)) for kind, each in inputs.items()}


def _projected(logits: Tensor) -> str:
    logits = logits.detach().cpu().double()
    signs = KeyedNoise(0, "projection", torch.arange(logits.shape[1])).uniform((NUMBERS,)).sub(0.5).sign()
    numbers = logits @ signs / logits.shape[1] ** 0.5
    return " ".join(f"{number:.6g}" for number in numbers.flatten().tolist())
