"""Transfer tries adversarial inputs on a model that were made for another one."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.pgd import Stepwise
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, Threat, per_example


class Transfer(Stepwise):
    """Inputs that PGD finds on other networks, tried once each."""

    attack: Literal["transfer"] = "transfer"
    turn: ClassVar[int] = 20
    steps: Tries = 40
    gradients: ClassVar[bool] = False  # of the network under attack
    searches: ClassVar[bool] = False
    transfers: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or "transfer"

    def cost(self, classes: int, norm: str) -> int:
        """Return a pass; those of the sources are not the network's."""
        return 1

    def attempt(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise, sources: Sequence[nn.Module] = ()
    ) -> Attempt:
        """Attack the sources, and try what is found on the network."""
        search = Search(x, y)
        for number, source in enumerate(sources):
            rows = search.open
            here, labels = x[rows], y[rows]
            attempt = self.climb(source, here, labels, threat, noise.of(rows).at(step=number))
            search.add(rows, transfer(model, here, labels, threat, attempt.inputs), by="")
        return search.attempt()


def transfer(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, candidates: Tensor) -> Attempt:
    """Try each candidate, brought into the threat model, once on its example; one that is not finite becomes the clean input.

    Example:
        >>> inputs = pgd(substitute, x, y, threat, starts=[x], steps=20, step_size=threat.eps / 4).inputs
        >>> transfer(model, x, y, threat, inputs)

    Raises:
        UserError: there is not one candidate of the right shape an example.

    Source: Papernot et al. 2016 (arXiv 1605.07277).
    """
    if candidates.shape != x.shape:
        raise UserError(
            f"candidates of shape {tuple(candidates.shape)} do not fit inputs of shape {tuple(x.shape)}: give one for each example"
        )
    usable = per_example(candidates.isfinite().flatten(1).all(dim=1), x)
    points = threat.project(x, torch.where(usable, candidates.to(x), x))
    search = Search(x, y)
    with torch.no_grad():
        search.see(search.open, points, model(points))
    return search.attempt()
