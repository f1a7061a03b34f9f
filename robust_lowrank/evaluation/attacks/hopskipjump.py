"""HopSkipJump walks along the decision boundary by answers alone: it sees classes, neither logits nor gradients."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.base import named
from robust_lowrank.evaluation.attacks.hyperplane import lengths
from robust_lowrank.evaluation.attacks.nearest import Distances, Nearest, NearestAttack
from robust_lowrank.evaluation.verdict import predictions
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, per_example

STEPS, DRAWS, MOST_DRAWS = 40, 100, 2000
STARTS = 100  # random inputs that are tried for one of another class
BLOCK = 2**24  # entries of random points that are made at once
HALVINGS = 20  # of a step that leaves the other class, and at most of a search for the boundary


class HopSkipJump(NearestAttack):
    """The nearest input of another class in L2 or Linf, sought by classes alone."""

    attack: Literal["hopskipjump"] = "hopskipjump"
    turn: ClassVar[int] = 95
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")
    title: ClassVar[str | None] = "HopSkipJump"
    steps: Tries = STEPS
    draws: Tries = DRAWS
    gradients: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or named("hopskipjump", self.steps, STEPS, 1)

    def cost(self, classes: int, norm: str) -> int:
        """Return the draws of all steps, the searches between them, and the starts."""
        draws = sum(_draws(self.draws, step) for step in range(1, self.steps + 1))
        return 1 + STARTS + draws + (2 * HALVINGS) * (self.steps + 1)

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, *, noise: KeyedNoise, within: float) -> Distances:
        """Take the steps."""
        return nearest_by_hopskipjump(model, x, y, norm, noise=noise, steps=self.steps, draws=self.draws, within=within)


@torch.no_grad()
def nearest_by_hopskipjump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    *,
    noise: KeyedNoise,
    steps: int = STEPS,
    draws: int = DRAWS,
    within: float = 0.0,
) -> Distances:
    """Return the nearest misclassified inputs that HopSkipJump finds; an example is finished at a distance of `within`.

    It starts at the first of 100 uniform inputs that is misclassified. A step estimates the normal of the boundary from the classes
    of `draws` times sqrt(step) random points around it, at most 2,000, goes along it, by half as long as that leaves the other
    class, and bisects towards the clean input. Nothing but the class is taken from the network.

    Example:
        >>> noise = KeyedNoise(0, "hopskipjump", torch.arange(len(x)))
        >>> nearest_by_hopskipjump(model, x, y, "L2", noise=noise, steps=10).distance.median()

    Raises:
        UserError: the norm is neither L2 nor Linf.

    Source: Chen, Jordan and Wainwright 2020 (arXiv 1904.02144), algorithm 2.
    """
    if norm not in ("L2", "Linf"):
        raise UserError(f"HopSkipJump measures distances in L2 or Linf, not in {norm}: take Square for that")
    nearest = Nearest(model, x, y, norm, within)
    walk = _Walk(nearest, noise)
    walk.start()
    for step in range(1, steps + 1):
        if not walk.go(step, _draws(draws, step)):
            break
    return nearest.distances()


def _draws(draws: int, step: int) -> int:
    return min(int(draws * math.sqrt(step)), MOST_DRAWS)


class _Walk:
    """The points on the boundary of the examples under way."""

    def __init__(self, nearest: Nearest, noise: KeyedNoise) -> None:
        self.nearest, self.noise = nearest, noise
        self.point = nearest.x.clone()
        features = nearest.x[0].numel()
        self.features = features
        self.precision = features**-1.5 if nearest.norm == "L2" else features**-2.0  # of a search, over the distance
        self.rows = nearest.open

    def start(self) -> None:
        """Look for random inputs of another class, and go from them to the boundary."""
        rows = self.rows
        for draw in range(STARTS):
            if len(rows) == 0:
                break
            points = self.noise.of(rows).at(step=draw).uniform(self.nearest.x.shape[1:]).to(self.nearest.x.dtype)
            wrong = self._wrong(rows, points)
            self.point[rows[wrong]] = points[wrong]
            rows = rows[~wrong]
        self.rows = self.rows[~torch.isin(self.rows, rows)]
        self._to_boundary()

    def go(self, step: int, draws: int) -> bool:
        """Go along the normal and back to the boundary; return whether examples are left."""
        nearest = self.nearest
        self.rows = self.rows[nearest.distance[self.rows] > nearest.within]
        rows = self.rows
        if len(rows) == 0:
            return False
        x, point = nearest.x[rows], self.point[rows]
        distance = lengths(point - x, nearest.norm)
        normal = self._normal(rows, point, distance, step, draws)
        if nearest.norm == "Linf":
            normal = normal.sign()
        length = distance / math.sqrt(step)
        moved, left = point.clone(), torch.arange(len(rows), device=rows.device)
        for _ in range(HALVINGS):
            if len(left) == 0:
                break
            tried = (point[left] + per_example(length[left], point).to(point.dtype) * normal[left]).clamp(0, 1)
            wrong = self._wrong(rows[left], tried)
            moved[left[wrong]] = tried[wrong]
            left = left[~wrong]
            length[left] /= 2
        self.point[rows] = moved
        self._to_boundary()
        return True

    def _normal(self, rows: Tensor, point: Tensor, distance: Tensor, step: int, draws: int) -> Tensor:
        """Return unit vectors into the other class, from the answers around the points."""
        size = max(1, BLOCK // (draws * self.features))
        parts = zip(rows.split(size), point.split(size), distance.split(size), strict=True)
        return torch.cat([self._estimate(*part, step, draws) for part in parts])

    def _estimate(self, rows: Tensor, point: Tensor, distance: Tensor, step: int, draws: int) -> Tensor:
        nearest, flat = self.nearest, point.flatten(1)[:, None].double()
        shape, noise = (draws, self.features), self.noise.of(rows).at(restart=1, step=step)
        drawn = noise.normal(shape) if nearest.norm == "L2" else 2 * noise.uniform(shape) - 1
        drawn /= torch.linalg.vector_norm(drawn, dim=2, keepdim=True)
        width = (distance * self.precision * (math.sqrt(self.features) if nearest.norm == "L2" else self.features))[:, None, None]
        around = (flat + width * drawn).clamp(0, 1)
        felt = (around - flat) / width
        logits = nearest.model(around.to(point.dtype).reshape(-1, *point.shape[1:]))
        answers = predictions(logits).reshape(len(rows), draws)
        nearest.forwards[rows] += draws
        nearest.nonfinite[rows] |= (answers < 0).any(dim=1)
        signs = torch.where(answers != nearest.y[rows, None], 1.0, -1.0).double()
        mean = signs.mean(dim=1, keepdim=True)
        weights = torch.where(mean.abs() == 1, signs, signs - mean)
        normal = (weights[:, :, None] * felt).mean(dim=1).reshape(point.shape)
        size = lengths(normal, "L2")
        return (normal / per_example(torch.where(size > 0, size, 1.0), normal)).to(point.dtype)

    def _to_boundary(self) -> None:
        """Bisect between the clean inputs and the points, and keep those of the other class."""
        nearest, rows = self.nearest, self.rows
        if len(rows) == 0:
            return
        x, far = nearest.x[rows], self.point[rows]
        high = (
            lengths(far - x, nearest.norm)
            if nearest.norm == "Linf"
            else torch.ones(len(rows), dtype=torch.float64, device=x.device)
        )
        low = torch.zeros_like(high)
        tolerance = self.precision * high
        left = torch.arange(len(rows), device=x.device)
        for _ in range(HALVINGS):
            left = left[high[left] - low[left] > tolerance[left]]  # each on its own, whatever is beside it
            if len(left) == 0:
                break
            middle = (low[left] + high[left]) / 2
            wrong = self._wrong(rows[left], self._between(x[left], far[left], middle))
            high[left], low[left] = torch.where(wrong, middle, high[left]), torch.where(wrong, low[left], middle)
        self.point[rows] = self._between(x, far, high)

    def _between(self, x: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """Return points on the way from `x`: a share of it in L2, no feature moved by more than that in Linf."""
        limit = per_example(share, x).to(x.dtype)
        if self.nearest.norm == "Linf":
            return torch.maximum(torch.minimum(far, x + limit), x - limit)
        return x + limit * (far - x)

    def _wrong(self, rows: Tensor, points: Tensor) -> Tensor:
        return self.nearest.look(rows, points) < 0
