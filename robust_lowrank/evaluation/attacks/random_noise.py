"""Random noise is the black-box baseline that every attack has to beat."""

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, Threat


class RandomNoise(NativeAttack):
    """Random inputs within the budget, the least that an attack must beat."""

    attack: Literal["random-noise"] = "random-noise"
    turn: ClassVar[int] = 30
    maskable: ClassVar[bool] = True
    draws: Tries = 100
    gradients: ClassVar[bool] = False
    searches: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name in results, such as random-noise-100."""
        return self.name or f"random-noise-{self.draws}"

    def cost(self, classes: int, norm: str) -> int:
        """Return the draws."""
        return self.draws

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Draw."""
        return random_noise(model, x, y, threat, noise=noise, draws=self.draws)


def random_noise(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, noise: KeyedNoise, draws: int = 100) -> Attempt:
    """Try random inputs of the threat model: uniform in the ball, and for Linf at every second draw a corner of it.

    An example is finished at the first input that breaks it. For one that nothing breaks, the input with the smallest margin is
    returned.

    Example:
        >>> random_noise(model, x, y, Linf(8 / 255), noise=KeyedNoise(0, "random-noise", torch.arange(len(x))), draws=100)
    """
    search = Search(x, y)
    with torch.no_grad():
        for draw in range(draws):
            rows = search.open
            if len(rows) == 0:
                break
            stream = replace(noise.of(rows), step=draw)
            corners = threat.norm == "Linf" and draw % 2 == 1
            points = _corners(x[rows], threat, stream) if corners else threat.random_start(x[rows], stream)
            search.see(rows, points, model(points))
    return search.attempt()


def _corners(x: Tensor, threat: Threat, noise: KeyedNoise) -> Tensor:
    low, high = threat.project(x, torch.zeros_like(x)), threat.project(x, torch.ones_like(x))
    return torch.where(noise.uniform(x.shape[1:]) < 0.5, low, high)
