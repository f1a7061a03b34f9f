"""A masked threat model lets only some features move."""

import torch
from torch import Tensor

from robust_lowrank.errors import UserError
from robust_lowrank.threat.models import Threat
from robust_lowrank.threat.noise import KeyedNoise


class Masked(Threat):
    """The inputs of another threat model that differ from the clean one where the mask allows it: a patch, or a region.

    Args:
        base: the threat model, whose norm and eps it has.
        mask: bool, of the shape of one input or of one that broadcasts to it.

    Example:
        >>> patch = torch.zeros(1, 28, 28, dtype=torch.bool)
        >>> patch[:, :8, :8] = True
        >>> PGD(steps=40).attempt(model, x, y, Masked(Linf(1.0), patch), noise)

    Raises:
        UserError: the mask is not of booleans, or allows nothing.
    """

    def __init__(self, base: Threat, mask: Tensor) -> None:
        if mask.dtype != torch.bool or not bool(mask.any()):
            raise UserError("a mask is a bool tensor that is true where features may move, somewhere at least")
        object.__setattr__(self, "eps", base.eps)
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "mask", mask)

    base: Threat
    mask: Tensor

    @property
    def norm(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The norm of the base."""
        return self.base.norm

    @classmethod
    def diameter(cls, features: int) -> float:
        """Return infinity: it depends on the base."""
        return float("inf")

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the distance in the norm of the base."""
        return self.base.distance(x, point)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return points of the base that are clean outside of the mask."""
        return self._inside(x, self.base.project(x, self._inside(x, point)))

    def random_start(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """Return a random point of the base, clean outside of the mask."""
        return self._inside(x, self.base.random_start(x, noise))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the base's step along the gradient within the mask."""
        return self.base.steepest(self.movable(gradient))

    def ascend(self, point: Tensor, gradient: Tensor, length: float) -> Tensor:
        """Return where the base goes along the gradient within the mask."""
        return self.base.ascend(point, self.movable(gradient), length)

    def resized(self, eps: float) -> "Masked":
        """Return the base of another radius with the same mask."""
        return Masked(self.base.resized(eps), self.mask)

    def movable(self, gradient: Tensor) -> Tensor:
        """Return the gradient within the mask."""
        return self._inside(torch.zeros_like(gradient), gradient)

    def contains(self, x: Tensor, point: Tensor) -> Tensor:
        """Return for each point whether it lies in the base, and is clean outside of the mask."""
        return self.base.contains(x, point) & (self._inside(x, point) == point).flatten(1).all(dim=1)

    def _inside(self, x: Tensor, point: Tensor) -> Tensor:
        return torch.where(self.mask.to(x.device), point, x)
