"""A threat model says, without tolerance, how far an input in [0, 1] may be moved."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robust_lowrank.errors import UserError, brief, unknown_name
from robust_lowrank.threat.noise import KeyedNoise


@dataclass(frozen=True)
class Threat(ABC):
    """All inputs within `eps` of the clean one and within [0, 1]; inputs are (N, ...) of any shape, float32 or float64.

    What `project` returns satisfies `contains` exactly: distances are taken in float64 and no tolerance is granted.
    """

    eps: float
    norm: ClassVar[str]

    @classmethod
    @abstractmethod
    def diameter(cls, features: int) -> float:
        """Return the largest distance within [0, 1]^features: a larger eps has no meaning."""

    @abstractmethod
    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the distance of each point from its clean input, (N,) float64."""

    @abstractmethod
    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return points of the threat model near `point`, (N, ...)."""

    @abstractmethod
    def random_start(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """Return a point uniform in the ball around each clean input, then brought into [0, 1]."""

    @abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the step of length 1 along which a linear loss rises most; 0 where the gradient is 0."""

    def ascend(self, point: Tensor, gradient: Tensor, length: float) -> Tensor:
        """Return where a step of that length from `point` takes a linear loss highest; it is still to be projected."""
        return point + length * self.steepest(gradient)

    def resized(self, eps: float) -> "Threat":
        """Return the same threat model of another radius."""
        return type(self)(eps)

    def movable(self, gradient: Tensor) -> Tensor:
        """Return the gradient where features may move, 0 elsewhere."""
        return gradient

    def contains(self, x: Tensor, point: Tensor) -> Tensor:
        """Return for each point whether it is finite, within eps and within [0, 1], (N,) bool."""
        inside = ((point >= 0) & (point <= 1)).flatten(1).all(dim=1)
        return inside & (self.distance(x, point) <= self.eps)


class Linf(Threat):
    """No feature moves by more than eps.

    Example:
        >>> Linf(0.1).project(torch.tensor([[0.5, 0.95]]), torch.tensor([[0.0, 2.0]]))
        tensor([[0.4000, 1.0000]])
    """

    norm = "Linf"

    @classmethod
    def diameter(cls, features: int) -> float:
        """Return 1."""
        return 1.0

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the largest change of a feature."""
        return (point.double() - x.double()).flatten(1).abs().amax(dim=1)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the nearest point."""
        radius = torch.tensor(self.eps, dtype=x.dtype)
        if radius.double() > self.eps:
            radius = torch.nextafter(radius, torch.zeros_like(radius))
        return torch.clamp(point, self._bound(x, -float(radius)), self._bound(x, float(radius))).clamp(0, 1)

    def random_start(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """Return a point uniform in the cube of side 2 eps, brought into [0, 1]."""
        return self.project(x, x + (self.eps * (2 * noise.uniform(x.shape[1:]) - 1)).to(x.dtype))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the sign."""
        return gradient.sign()

    def _bound(self, x: Tensor, offset: float) -> Tensor:
        """Return `x + offset`, and where rounding makes it leave the cube the next number towards `x`."""
        bound = x + offset
        outside = (bound.double() - x.double()).abs() > self.eps
        return torch.where(outside, torch.nextafter(bound, x), bound)


class L2(Threat):
    """The Euclidean length of the change is at most eps.

    Example:
        >>> L2(0.5).project(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([[0.3000, 0.4000]])
    """

    norm = "L2"

    @classmethod
    def diameter(cls, features: int) -> float:
        """Return the diagonal of the cube."""
        return math.sqrt(features)

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the Euclidean length of the change."""
        return torch.linalg.vector_norm((point.double() - x.double()).flatten(1), dim=1)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the nearest point of the ball, then of the cube: within both, though not always nearest to `point`.

        Rounding can leave the scaled point a little outside; such a point is scaled again, by as much as rounding can amount to.
        """
        projected = self._scale(x, point, self.eps)
        rounding = torch.finfo(x.dtype).eps * math.sqrt(x[0].numel())
        outside = per_example(self.distance(x, projected) > self.eps, x)
        return torch.where(outside, self._scale(x, point, max(self.eps - rounding, 0.0)), projected)

    def random_start(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """Return a point uniform in the ball, brought into [0, 1]."""
        features = x[0].numel()
        direction = noise.normal((features,))
        radius = self.eps * noise.uniform((1,), stream=1) ** (1 / features)
        change = radius * direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        return self.project(x, x + change.reshape(x.shape).to(x.dtype))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the gradient over its length; scaled before squaring, so that a tiny gradient is not taken for 0."""
        largest = gradient.flatten(1).abs().amax(dim=1)
        scaled = gradient / per_example(torch.where(largest > 0, largest, 1.0), gradient)
        length = torch.linalg.vector_norm(scaled.flatten(1), dim=1)
        return scaled / per_example(torch.where(length > 0, length, 1.0), gradient)

    def _scale(self, x: Tensor, point: Tensor, radius: float) -> Tensor:
        distance = self.distance(x, point)
        factor = torch.where(distance > radius, radius / distance, 1.0).to(x.dtype)
        return (x + (point - x) * per_example(factor, x)).clamp(0, 1)


class L1(Threat):
    """The changes of all features add up to at most eps.

    Example:
        >>> L1(0.5).project(torch.zeros(1, 2), torch.tensor([[0.7, 0.4]]))
        tensor([[0.4000, 0.1000]])
    """

    norm = "L1"

    @classmethod
    def diameter(cls, features: int) -> float:
        """Return the number of features."""
        return float(features)

    def distance(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the sum of all changes."""
        return (point.double() - x.double()).flatten(1).abs().sum(dim=1)

    def project(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the nearest point of the ball and the cube together, short of it by what rounding can amount to.

        Source: Croce and Hein 2021 (arXiv 2103.01208), proposition 2.1.
        """
        inside = point.clamp(0, 1)
        change = self._nearest(x.double().flatten(1), point.double().flatten(1)).reshape(x.shape)
        radius = self.eps * (1 - x[0].numel() * torch.finfo(torch.float64).eps)
        size = change.abs().flatten(1).sum(dim=1)
        change = change * per_example(torch.where(size > radius, radius / size, 1.0), x)
        moved = (x.double() + change).to(x.dtype)
        beyond = (moved.double() - x.double()).abs() > change.abs()
        moved = torch.where(beyond, torch.nextafter(moved, x), moved)
        return torch.where(per_example(self.distance(x, inside) > self.eps, x), moved, inside)

    def random_start(self, x: Tensor, noise: KeyedNoise) -> Tensor:
        """Return a point uniform in the ball, brought into [0, 1].

        Of features + 1 exponential numbers divided by their sum, all but one are uniform in the simplex (Devroye 1986, XI.2).
        """
        signed = 2 * noise.uniform((x[0].numel(),)) - 1
        sizes, rest = -signed.abs().log(), -noise.uniform((1,), stream=1).log()
        change = self.eps * signed.sign() * sizes / (sizes.sum(dim=1, keepdim=True) + rest)
        return self.project(x, x + change.reshape(x.shape).to(x.dtype))

    def steepest(self, gradient: Tensor) -> Tensor:
        """Return the sign of the entry of largest size, at its place."""
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).reshape(gradient.shape)

    def ascend(self, point: Tensor, gradient: Tensor, length: float) -> Tensor:
        """Return the point of the cube within `length` where a linear loss is highest: the steepest features go to its faces.

        A step along the steepest feature alone would be lost where that one is at 0 or 1 already.
        """
        slope, place = gradient.flatten(1), point.flatten(1)
        room = torch.where(slope > 0, 1 - place, place) * slope.sign().abs()
        order = slope.abs().argsort(dim=1, descending=True, stable=True)
        room = room.gather(1, order)
        spent = room.cumsum(dim=1) - room
        moves = torch.minimum(room, (length - spent).clamp(min=0)) * slope.gather(1, order).sign()
        return point + torch.zeros_like(slope).scatter(1, order, moves).reshape(point.shape)

    def _nearest(self, x: Tensor, point: Tensor) -> Tensor:
        """Return the change to the nearest point, (N, features): `sign(c) clip(|c| - shrinkage, 0, room)` for a change `c`.

        As a function of the shrinkage, its length is piecewise linear: it rises below each `|c|` and ceases to rise below
        `|c| - room`. Between two of these kinks, the shrinkage at which it is eps solves a linear equation.
        """
        change = point - x
        size, room = change.abs(), torch.where(change > 0, 1 - x, x)
        kinks, order = torch.cat([size, size - room], dim=1).sort(dim=1, descending=True)
        rising = torch.where(order < size.shape[1], 1, -1)
        slope, offset = rising.cumsum(dim=1), (rising * kinks).cumsum(dim=1)
        last = ((offset - slope * kinks <= self.eps).sum(dim=1, keepdim=True) - 1).clamp(min=0)
        slope, offset, kink = (values.gather(1, last) for values in (slope, offset, kinks))
        shrinkage = torch.where(slope > 0, (offset - self.eps) / slope.clamp(min=1), kink).clamp(min=0)
        return change.sign() * torch.minimum((size - shrinkage).clamp(min=0), room)


THREATS: dict[str, type[Threat]] = {"Linf": Linf, "L2": L2, "L1": L1}


def threat(norm: str, eps: float, *, features: int) -> Threat:
    """Return the threat model of that norm and radius for inputs with so many features.

    Raises:
        UserError: the norm is unknown, or eps is not above 0 and within the diameter of [0, 1]^features.
    """
    if norm not in THREATS:
        raise unknown_name("norm", norm, THREATS)
    kind = THREATS[norm]
    largest = kind.diameter(features)
    if not 0 < eps <= largest:
        raise UserError(
            f"eps {eps:g} is outside the range of {norm}: inputs lie in [0, 1], so take 0 < eps <= {largest:.4g} (8/255 is usual)"
        )
    return kind(eps)


def radius(value: float | str) -> float:
    """Return an eps given as a number or as a text such as "8/255".

    Raises:
        UserError: it is not a positive, finite number.
    """
    try:
        number = _fraction(value) if isinstance(value, str) and "/" in value else float(value)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
        raise UserError(f'eps {brief(value)} is not a number: write 0.1 or "8/255"') from error
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise UserError(f"eps {brief(value)} is not above 0 and finite")
    return number


def _fraction(text: str) -> float:
    numerator, _, denominator = text.partition("/")
    return int(numerator) / int(denominator)


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Return one value an example in a shape that broadcasts against (N, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
