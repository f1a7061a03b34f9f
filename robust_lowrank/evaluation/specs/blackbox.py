"""Attacks that need no gradients of the network."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from robust_lowrank.evaluation.engines.search import Attempt, Search
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.specs.spec import Count, NativeSpec, named
from robust_lowrank.evaluation.specs.steps import Stepwise
from robust_lowrank.evaluation.threat import Threat

QUERIES = 5000  # of AutoAttack standard


class Square(NativeSpec):
    """Random search with square patches, without gradients."""

    attack: Literal["square"] = "square"
    queries: Count = QUERIES
    restarts: Count = 1
    gradients: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name in results, such as square, or square-1000 with fewer queries."""
        return self.name or named("square", self.queries, QUERIES, self.restarts)

    def cost(self, classes: int, norm: str) -> int:
        """Return the queries of all restarts."""
        return self.restarts * self.queries

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Search."""
        from robust_lowrank.evaluation.engines.square import square

        return square(model, x, y, threat, noise=noise, queries=self.queries, restarts=self.restarts)


class RandomNoise(NativeSpec):
    """Random inputs within the budget, the least that an attack must beat."""

    attack: Literal["random-noise"] = "random-noise"
    draws: Count = 100
    gradients: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name in results, such as random-noise-100."""
        return self.name or f"random-noise-{self.draws}"

    def cost(self, classes: int, norm: str) -> int:
        """Return the draws."""
        return self.draws

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Draw."""
        from robust_lowrank.evaluation.engines.random_noise import random_noise

        return random_noise(model, x, y, threat, noise=noise, draws=self.draws)


class Transfer(Stepwise):
    """Inputs that PGD finds on other networks, tried once each."""

    attack: Literal["transfer"] = "transfer"
    steps: Count = 40
    gradients: ClassVar[bool] = False  # of the network under attack

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
        from robust_lowrank.evaluation.engines.pgd import pgd
        from robust_lowrank.evaluation.engines.transfer import transfer

        search = Search(x, y)
        for number, source in enumerate(sources):
            rows = search.open
            here, labels, own = x[rows], y[rows], noise.of(rows).at(step=number)
            starts = self.starts(here, threat, own)
            found = pgd(source, here, labels, threat, starts=starts, steps=self.steps, step_size=self.step_size(threat.eps))
            search.add(rows, transfer(model, here, labels, threat, found.inputs), by="")
        return search.attempt()
