"""FMN descends the margin within a ball that shrinks to the nearest misclassified input."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.base import named
from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.attacks.hyperplane import DUALS, lengths
from robust_lowrank.evaluation.attacks.nearest import REFINEMENTS, Distances, Nearest, NearestAttack
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.ranges import Factor, Tries
from robust_lowrank.threat import KeyedNoise, per_example

STEPS = 100
STEP, LAST_STEP = 1.0, 0.01  # Euclidean lengths of the first and of the last step
SHRINKAGE, LAST_SHRINKAGE = 0.05, 0.001  # of the ball at each step


class FMN(NearestAttack):
    """The nearest input of another class, sought within a ball that shrinks where it holds one and grows where it does not."""

    attack: Literal["fmn"] = "fmn"
    turn: ClassVar[int] = 72
    title: ClassVar[str | None] = "FMN"
    steps: Tries = STEPS
    step: Factor = STEP

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or named("fmn", self.steps, STEPS, 1)

    def cost(self, classes: int, norm: str) -> int:
        """Return two passes a step, one on both ends, and a final search."""
        return 2 * self.steps + 2 + REFINEMENTS

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, *, noise: KeyedNoise, within: float) -> Distances:
        """Take the steps."""
        return nearest_by_fmn(model, x, y, norm, steps=self.steps, step=self.step, within=within)


def nearest_by_fmn(
    model: nn.Module, x: Tensor, y: Tensor, norm: str, *, steps: int = STEPS, step: float = STEP, within: float = 0.0
) -> Distances:
    """Return the nearest misclassified inputs that FMN finds; an example is finished at a distance of `within`.

    A step goes down the gradient of the margin, its Euclidean length falling from `step` to a hundredth of it as a cosine, and back
    into a ball around the clean input. As long as nothing was found, the ball reaches to where the margin would be 0 if it were
    linear, and grows where the faces of [0, 1] make that too near, which the paper's does not; then it shrinks or grows by 5 % a
    step, and by 0.1 % in the end. It costs a forward and a backward pass a step.

    Example:
        >>> nearest_by_fmn(model, x, y, "Linf").distance.median()

    Source: Pintor et al. 2021 (arXiv 2102.12827), algorithm 1.
    """
    nearest = Nearest(model, x, y, norm, within)
    rows = nearest.open
    point = x.clone()
    radius = torch.zeros(y.shape, dtype=torch.float64, device=y.device)
    for number in range(steps):
        if len(rows) == 0:
            break
        size, rate = cosine(step, LAST_STEP * step, number, steps), cosine(SHRINKAGE, LAST_SHRINKAGE, number, steps)
        logits, margin, gradient, finite = input_gradient(model, point[rows], y[rows], margins)
        nearest.see(rows, point[rows], logits, backwards=1, finite=finite)
        here = lengths(point[rows] - x[rows], norm)
        slope = torch.linalg.vector_norm(gradient.double().flatten(1), ord=DUALS[norm], dim=1)
        found = nearest.distance[rows].isfinite()
        reach = here + (margin.double().clamp(min=0) / slope).nan_to_num(math.inf)
        wider = radius[rows] * (1 + rate)
        grown = torch.where(found, wider, torch.maximum(wider, reach))
        shrunk = torch.minimum(radius[rows] * (1 - rate), nearest.distance[rows])
        radius[rows] = torch.where(margin < 0, shrunk, grown)
        length = torch.linalg.vector_norm(gradient.double().flatten(1), dim=1)
        unit = gradient.double() / per_example(torch.where(length > 0, length, 1.0), gradient)
        change = onto_ball(point[rows].double() - size * unit - x[rows].double(), radius[rows], norm)
        point[rows] = (x[rows] + change.to(x.dtype)).clamp(0, 1)
        rows = rows[finite & (nearest.distance[rows] > within)]
    if len(rows):
        nearest.look(rows, point[rows])
    nearest.refine()
    return nearest.distances()


def cosine(first: float, last: float, number: int, steps: int) -> float:
    """Return what falls from `first` to `last` as half a cosine.

    Example:
        >>> cosine(1.0, 0.0, 0, 11), round(cosine(1.0, 0.0, 5, 11), 6), cosine(1.0, 0.0, 10, 11)
        (1.0, 0.5, 0.0)
    """
    return last + (first - last) * (1 + math.cos(math.pi * number / max(steps - 1, 1))) / 2


def onto_ball(change: Tensor, radius: Tensor, norm: str) -> Tensor:
    """Return the nearest changes no longer than the radii, (N,), each an example's own.

    Example:
        >>> onto_ball(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0]), "L2")
        tensor([[0.6000, 0.8000]])

    Source: for L1, Duchi et al. 2008 (ICML), figure 1.
    """
    limit = per_example(radius, change)
    if norm == "Linf":
        return torch.maximum(torch.minimum(change, limit), -limit)
    length = per_example(lengths(change, norm), change).to(change.dtype)
    if norm == "L2":
        return change * torch.where(length > limit, limit / length, 1.0).to(change.dtype)
    sizes, _ = change.flatten(1).abs().sort(dim=1, descending=True)
    excess = sizes.cumsum(dim=1) - radius[:, None]
    counts = torch.arange(1, sizes.shape[1] + 1, device=change.device)
    last = (sizes * counts > excess).sum(dim=1, keepdim=True).clamp(min=1)
    shrinkage = per_example((excess.gather(1, last - 1) / last).squeeze(1), change)
    return torch.where(length > limit, change.sign() * (change.abs() - shrinkage).clamp(min=0), change)
