"""The expected network of a randomised one answers by the mean over draws, which can be attacked and judged."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError

DRAWS = 20


class Expected(nn.Module):
    """The mean logits of a randomised network over a number of draws, the same draws for every input.

    An input is repeated so often and answered in one batch, with the random state set to `seed` before it: its answer depends on
    nothing but itself, and its gradient is the mean of the draws' gradients, which is the expectation over transformation. What is
    judged is this mean, not a single answer. Draws by numpy, of modules
    that keep a generator of their own, and of a backward pass (a random stand-in of `BPDA`) are not set.

    Args:
        network: draws at random in evaluation mode too, by torch or Python's `random`.
        draws: how many answers make a mean.

    Example:
        >>> noisy = Expected(nn.Sequential(Noise(0.1), classifier), draws=50)
        >>> evaluate(noisy, x, y, suite="quick", eps="8/255").robust_accuracy

    Raises:
        UserError: there are no draws.

    Source: Athalye et al. 2018 (arXiv 1707.07397), equation (1); for defences arXiv 1802.00420, section 4.2.
    """

    def __init__(self, network: nn.Module, *, draws: int = DRAWS, seed: int = 0) -> None:
        super().__init__()
        if draws < 1:
            raise UserError(f"a mean over {draws} draws has no value: take at least 1 ({DRAWS} is usual)")
        self.network: nn.Module = network
        self.draws: int = draws
        self.seed: int = seed

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits, (N, classes)."""
        return torch.cat([self._mean(row) for row in x.split(1)])

    def _mean(self, row: Tensor) -> Tensor:
        with _seeded(self.seed, row):
            return self.network(row.repeat(self.draws, *[1] * (row.dim() - 1))).mean(dim=0, keepdim=True)


@contextmanager
def _seeded(seed: int, x: Tensor) -> Iterator[None]:
    """Set the random states of torch, on the device of `x` too, and of Python for a block, and put them back."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
