"""A method is a set of pure functions of factors and projected gradients; it never sees a layer or a network.

*Free* factors are left to the optimizer as they are. A *retraction* method (CondLR, the Stiefel baselines) moves all factors along
directions and brings them back to its manifold. A *Galerkin* method (DLRT, TDLRT, GeoLoRA) turns the bases, moves the core between
the new ones, and truncates.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from robust_lowrank.linalg import Factors
from robust_lowrank.penalties import Penalty

Use = Literal["weights", "drawn", "adapter"]  # what factors start from: trained weights, random draws, or nothing, beside a weight


class Memory(ABC):
    """Keeps what a method knows of all its layers together, by the names of the layers, from step to step."""

    @abstractmethod
    def after_step(self, layers: Mapping[str, tuple[nn.Parameter, ...]], step: int) -> None:
        """Look at factors and gradients of the step just taken, and change factors if it is time to."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what is kept, as plain tensors."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any], layers: Mapping[str, tuple[nn.Parameter, ...]]) -> None:
        """Take up what `state_dict` returned, on the devices of the layers."""


class Method:
    """A way to train factors.

    Attributes:
        name: what the command line calls it.
        form: how a weight is stored: `matrix` U S V^T; `channels` the same for linear layers and Tucker factors of the channel
            modes for kernels, `tucker` of all modes; `whole` one tensor; and without constraint `pair` A B^T, `triple` U S V^T and
            `diagonal` P diag(lambda) Q^T.
        evaluations: how often one exact step evaluates loss and gradients.
    """

    name: ClassVar[str]
    ranked: ClassVar[bool] = True  # False: weights stay whole, at full rank
    inverts: ClassVar[bool] = False  # whether a step divides by the core, which then cannot be zero
    adapter: ClassVar[bool] = False  # True: only an update of a frozen weight, scaled by alpha / r

    @property
    def cond_bound(self) -> float:
        """The condition number that no weight exceeds after a step; inf if there is no bound."""
        return math.inf

    @property
    def needs_start(self) -> bool:
        """Whether an adapter's update cannot start at zero, and takes a part of the frozen weight."""
        return self.inverts or not math.isinf(self.cond_bound)

    @property
    def form(self) -> str:
        """The form of a weight."""
        return "matrix"

    @property
    def evaluations(self) -> int:
        """The evaluations of one exact step."""
        return 1

    def check(self, layers: int, *, kernels: int) -> None:
        """Raise a `UserError` if so many layers, of which some are kernels, cannot be trained together."""

    def with_defaults_for(self, use: Use) -> "Method":
        """Return the method with the defaults that suit what its factors start from."""
        return self

    def project(self, factors: Factors) -> Factors:
        """Return the nearest factors that the method's constraint allows."""
        return factors

    @property
    def term(self) -> Penalty | None:
        """A penalty of the method's own on each of the free factors."""
        return None

    def precondition(self, factors: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the gradients of free factors as the optimizer shall see them."""
        return gradients

    def memory(self) -> Memory | None:
        """Return a new memory for layers of free factors, if the method needs one."""
        return None
