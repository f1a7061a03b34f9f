"""Carlini and Wagner's attack minimises the squared distance plus a weighted margin, by Adam, and searches the weight."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.base import named
from robust_lowrank.evaluation.attacks.nearest import REFINEMENTS, Distances, Nearest, NearestAttack
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.ranges import Factor, Tries
from robust_lowrank.threat import KeyedNoise

STEPS, SEARCHES = 100, 9
LR, WEIGHT = 0.05, 0.1
INSIDE = 1 - 1e-6  # of [-1, 1]: beyond it the inverse of tanh is lost


class CarliniWagner(NearestAttack):
    """The nearest input of another class in L2, by an optimiser on distance and margin."""

    attack: Literal["cw"] = "cw"
    turn: ClassVar[int] = 76
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    title: ClassVar[str | None] = "C&W"
    steps: Tries = STEPS
    binary_search_steps: Tries = SEARCHES
    lr: Factor = LR

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or named("cw", self.steps, STEPS, 1)

    def cost(self, classes: int, norm: str) -> int:
        """Return two passes a step of every search, one on the clean input, and a final search."""
        return 2 * self.steps * self.binary_search_steps + 1 + REFINEMENTS

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, *, noise: KeyedNoise, within: float) -> Distances:
        """Take the steps."""
        steps, searches = self.steps, self.binary_search_steps
        return nearest_by_cw(model, x, y, steps=steps, binary_search_steps=searches, lr=self.lr, within=within)


def nearest_by_cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = STEPS,
    binary_search_steps: int = SEARCHES,
    lr: float = LR,
    weight: float = WEIGHT,
    within: float = 0.0,
) -> Distances:
    """Return the nearest misclassified inputs in L2 that C&W finds; an example is finished at a distance of `within`.

    It minimises `|x' - x|^2 + c max(margin, 0)` over x' = (tanh(w) + 1) / 2 by Adam. The weight c of the margin starts at `weight`;
    a search that finds nothing multiplies it by 10, until one does, and then it is bisected, `binary_search_steps` searches in all.
    It costs a forward and a backward pass a step.

    Example:
        >>> nearest_by_cw(model, x, y).distance.median()

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), section VI.A, with the margin of section V.A.
    """
    nearest = Nearest(model, x, y, "L2", within)
    low = torch.zeros(y.shape, dtype=torch.float64, device=y.device)
    high, factor = torch.full_like(low, torch.inf), torch.full_like(low, weight)
    for _ in range(binary_search_steps):
        rows = nearest.open
        if len(rows) == 0:
            break
        broken = _descend(nearest, rows, factor[rows], steps, lr)
        high[rows] = torch.where(broken, torch.minimum(high[rows], factor[rows]), high[rows])
        low[rows] = torch.where(broken, low[rows], torch.maximum(low[rows], factor[rows]))
        middle = (low[rows] + high[rows]) / 2
        factor[rows] = torch.where(high[rows].isfinite(), middle, 10 * factor[rows])
    nearest.refine()
    return nearest.distances()


def _descend(nearest: Nearest, rows: Tensor, factor: Tensor, steps: int, lr: float) -> Tensor:
    """Take the steps with these weights of the margin, and return which examples were broken on the way."""
    x, y = nearest.x[rows], nearest.y[rows]
    broken = torch.zeros_like(y, dtype=torch.bool)
    with torch.inference_mode(False), torch.enable_grad():
        free = torch.atanh((2 * x - 1) * INSIDE).clone().requires_grad_()
        optimizer = torch.optim.Adam([free], lr=lr)
        for _ in range(steps):
            point = (torch.tanh(free) + 1) / 2
            logits = nearest.model(point)
            margin = margins(logits, y)
            loss = (point - x).double().flatten(1).square().sum(dim=1) + factor * margin.double().clamp(min=0)
            (free.grad,) = torch.autograd.grad(loss.sum(), free)
            finite = free.grad.isfinite().flatten(1).all(dim=1)
            broken |= nearest.see(rows, point.detach(), logits.detach(), backwards=1, finite=finite) < 0
            free.grad.nan_to_num_(0.0, 0.0, 0.0)
            optimizer.step()
    return broken
