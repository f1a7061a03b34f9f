"""Square moves at random: from a start it rewrites windows of an image."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank.threat import KeyedNoise, Threat


class Grid(NamedTuple):
    """An input seen as an image."""

    channels: int
    height: int
    width: int

    def window(self, side: int) -> tuple[int, int]:
        """Return height and width of a window of `side`² pixels: a square, or longer one way where the image is too short."""
        height, width = min(side, self.height), min(side, self.width)
        if width > height:
            width = min(round(side**2 / height), self.width)
        elif height > width:
            height = min(round(side**2 / width), self.height)
        return height, width


class Moves(ABC):
    """Random moves of N points, one stream of random numbers each; points are (N, C, height * width)."""

    numbers: int  # random numbers a move takes

    def __init__(self, grid: Grid, like: Tensor) -> None:
        self.grid: Grid = grid
        self.row: Tensor = torch.arange(grid.height, device=like.device) * grid.width
        self.column: Tensor = torch.arange(grid.width, device=like.device)
        self.channel: Tensor = torch.arange(grid.channels, device=like.device)[:, None]

    @abstractmethod
    def start(self, noise: KeyedNoise) -> Tensor:
        """Return the first points, from the noise of the same N examples."""

    @abstractmethod
    def plan(self, uniform: Tensor, part: float) -> tuple[Tensor, ...]:
        """Turn (K, B, numbers) uniform numbers into B moves of windows with this part of the image, tensors (K, B, ...)."""

    @abstractmethod
    def move(self, point: Tensor, rows: Tensor, *planned: Tensor) -> Tensor:
        """Move copies of the points `rows`, (K,), by one planned move each, tensors (K, ...), and return them, (K, C, s)."""

    @abstractmethod
    def settle(self, rows: Tensor, taken: Tensor) -> None:
        """Take note that the points `rows` go where the last moves took those copies, by their numbers `taken`."""

    def corner(self, uniform: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the first pixel of a window of this size, uniform over all its places; (..., 2) to (...)."""
        top = (uniform[..., 0] * (self.grid.height - size[0] + 1)).long()
        left = (uniform[..., 1] * (self.grid.width - size[1] + 1)).long()
        return top * self.grid.width + left

    def places(self, corner: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the pixels of a window at each first pixel in every channel, (K,) to (K, C, s)."""
        within = (self.row[: size[0], None] + self.column[: size[1]]).flatten()
        return (corner[:, None] + within)[:, None].expand(-1, self.grid.channels, -1)

    def at(self, values: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Return what stands at these pixels of the points `rows`, (K, C, s)."""
        return values[rows[:, None, None], self.channel, places]


class LinfMoves(Moves):
    """Every feature stays at one of its two bounds: vertical stripes first, then a window of each channel goes to one bound."""

    size: tuple[int, int]

    def __init__(self, x: Tensor, threat: Threat, grid: Grid) -> None:
        super().__init__(grid, x)
        self.numbers: int = 2 + grid.channels
        self.low: Tensor = threat.project(x, torch.zeros_like(x)).reshape(len(x), grid.channels, -1)
        self.high: Tensor = threat.project(x, torch.ones_like(x)).reshape(len(x), grid.channels, -1)

    def start(self, noise: KeyedNoise) -> Tensor:
        """Return vertical stripes."""
        stripes = noise.uniform((self.grid.channels, 1, self.grid.width)) < 0.5
        return torch.where(stripes.expand(-1, *self.grid).flatten(2), self.low, self.high)

    def plan(self, uniform: Tensor, part: float) -> tuple[Tensor, ...]:
        """Return the first pixel of the window, and which channels go down."""
        self.size = self.grid.window(max(round(math.sqrt(part * self.grid.height * self.grid.width)), 1))
        return self.corner(uniform, self.size), uniform[..., 2:] < 0.5

    def move(self, point: Tensor, rows: Tensor, *planned: Tensor) -> Tensor:
        """Set the window to the bounds; a step of 2 eps, projected, leads there from anywhere."""
        corner, down = planned
        places = self.places(corner, self.size)
        low, high = (self.at(bound, rows, places) for bound in (self.low, self.high))
        return point.scatter_(2, places, torch.where(down[..., None], low, high))

    def settle(self, rows: Tensor, taken: Tensor) -> None:
        """Nothing to note."""


class LpMoves(Moves):
    """The change keeps its length: a window of it is given up for two hills of opposite sign in another window.

    What clipping to [0, 1] leaves unused of the radius is free for the next move. Lengths are taken in float64, with a radius
    smaller than eps by what rounding can add, so that no point needs to be projected.
    """

    candidate: Tensor  # the lengths of the copies that were moved last
    size: tuple[int, int]
    hills: Tensor

    def __init__(self, x: Tensor, threat: Threat, grid: Grid, order: int) -> None:
        super().__init__(grid, x)
        self.order: int = order
        self.numbers: int = 5 + grid.channels
        self.x: Tensor = x.reshape(len(x), grid.channels, -1)
        rounding = torch.finfo(x.dtype).eps * x[0].numel() ** (1 / order)
        self.radius: float = max(threat.eps * (1 - 1e-9) - rounding, 0.0)
        self.used: Tensor = torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def start(self, noise: KeyedNoise) -> Tensor:
        """Return a tiling with pairs of hills, scaled to the radius; five tiles along the shorter side if it is long enough."""
        channels, height, width = self.grid
        side = max(min(height, width) // 5, 1)
        down, across = height // side, width // side
        sign = torch.where(noise.uniform((channels, down, across, 1, 1)) < 0.5, -1.0, 1.0).double()
        upright = noise.uniform((1, down, across, 1, 1), stream=1) < 0.5
        tiles = sign * torch.where(upright, *_hills(side, side, self.order, self.x.device))
        top, left = (height - down * side) // 2, (width - across * side) // 2
        change = torch.zeros(len(self.x), *self.grid, dtype=torch.float64, device=self.x.device)
        change[:, :, top : top + down * side, left : left + across * side] = tiles.transpose(3, 4).reshape(
            len(self.x), channels, down * side, across * side
        )
        change *= (self.radius / self._power(change.flatten(1)) ** (1 / self.order)).reshape(-1, 1, 1, 1)
        point = (self.x + change.flatten(2)).clamp(0, 1).to(self.x.dtype)
        self.used = self._power((point.double() - self.x).flatten(1))
        return point

    def plan(self, uniform: Tensor, part: float) -> tuple[Tensor, ...]:
        """Return the first pixels of the window that is written and of the one that is given up, and the hills that are added."""
        side = max(round(math.sqrt(part * self.grid.height * self.grid.width)), 3)
        self.size = self.grid.window(side + 1 - side % 2)
        self.hills = torch.stack([hill.flatten() for hill in _hills(*self.size, self.order, self.x.device)])
        upright = (uniform[..., 4] < 0.5).long()
        sign = torch.where(uniform[..., 5:] < 0.5, -1.0, 1.0).double()
        return self.corner(uniform[..., :2], self.size), self.corner(uniform[..., 2:4], self.size), upright, sign

    def move(self, point: Tensor, rows: Tensor, *planned: Tensor) -> Tensor:
        """Give up one window, and write into the other what it held, plus hills, at the length that is free now."""
        corner, other, upright, sign = planned
        written, given = self.places(corner, self.size), self.places(other, self.size)
        clean = self.at(self.x, rows, written)
        change = point.gather(2, written).double() - clean
        clean_given, old_given = self.at(self.x, rows, given), point.gather(2, given)
        point.scatter_(2, given, clean_given)
        old = point.gather(2, written)

        tiny = torch.finfo(torch.float64).tiny
        released = self._power(old_given.double() - clean_given) + self._power(old.double() - clean)
        free = ((self.radius**self.order - self.used[rows, None]) / self.grid.channels + released).clamp(min=0)
        length = self._power(change).clamp(min=tiny) ** (1 / self.order)
        direction = self.hills[upright][:, None] * sign[..., None] + change / length[..., None]
        factor = (free / self._power(direction).clamp(min=tiny)) ** (1 / self.order)
        new = (clean + direction * factor[..., None]).clamp(0, 1).to(clean.dtype)
        self.candidate = self.used[rows] + (self._power(new.double() - clean) - released).sum(dim=1)
        return point.scatter_(2, written, new)

    def settle(self, rows: Tensor, taken: Tensor) -> None:
        """Take note of the lengths of the points."""
        self.used[rows] = self.candidate[taken]

    def _power(self, change: Tensor) -> Tensor:
        """Return the sum of |change|^order over the last dimension."""
        return change.abs().pow(self.order).sum(dim=-1)


def _hills(height: int, width: int, order: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return two adjoining hills of opposite sign, one above and one beside the other, (height, width) each, of length 1."""
    return _above(height, width, order).to(device), _above(width, height, order).T.to(device)


def _above(height: int, width: int, order: int) -> Tensor:
    halves = torch.cat([_hill(height // 2, width, order), -_hill(height - height // 2, width, order)])
    return halves / torch.linalg.vector_norm(halves, ord=order)


def _hill(height: int, width: int, order: int) -> Tensor:
    """Return concentric rectangles that fall off from the middle, (height, width) float64, of length 1."""
    down = (torch.arange(height) - height // 2).abs()
    across = (torch.arange(width) - width // 2).abs()
    rings = max(height // 2, width // 2) + 1
    heights = (1.0 / torch.arange(1, rings + 1, dtype=torch.float64) ** (4 // order)).flip(0).cumsum(0).flip(0)
    hill = heights[torch.maximum(down[:, None], across)]
    return hill / torch.linalg.vector_norm(hill, ord=order)
