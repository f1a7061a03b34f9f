"""DDN decouples the direction of a change, which follows the gradient, from its length, which follows the answer."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.base import named
from robust_lowrank.evaluation.attacks.fmn import cosine
from robust_lowrank.evaluation.attacks.gradients import cross_entropy, input_gradient
from robust_lowrank.evaluation.attacks.hyperplane import lengths
from robust_lowrank.evaluation.attacks.nearest import REFINEMENTS, Distances, Nearest, NearestAttack
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, per_example

STEPS = 100
LENGTH, FACTOR = 1.0, 0.05  # of the change at first, and by which it shrinks or grows at each step


class DDN(NearestAttack):
    """The nearest input of another class in L2, on a sphere that shrinks after a success and grows after a failure."""

    attack: Literal["ddn"] = "ddn"
    turn: ClassVar[int] = 74
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    title: ClassVar[str | None] = "DDN"
    steps: Tries = STEPS
    factor: Annotated[float, Field(gt=0, lt=1)] = FACTOR

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or named("ddn", self.steps, STEPS, 1)

    def cost(self, classes: int, norm: str) -> int:
        """Return two passes a step, one on both ends, and a final search."""
        return 2 * self.steps + 2 + REFINEMENTS

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, *, noise: KeyedNoise, within: float) -> Distances:
        """Take the steps."""
        return nearest_by_ddn(model, x, y, steps=self.steps, factor=self.factor, within=within)


def nearest_by_ddn(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = STEPS, factor: float = FACTOR, within: float = 0.0
) -> Distances:
    """Return the nearest misclassified inputs in L2 that DDN finds; an example is finished at a distance of `within`.

    The change moves along the gradient of the cross-entropy by a length that falls from 1 to 0.01 as a cosine, and is then scaled
    to a length that shrinks by `factor` where the point was misclassified, and grows by it where it was not. Inputs are not
    rounded to 256 levels. It costs a forward and a backward pass a step.

    Example:
        >>> nearest_by_ddn(model, x, y).distance.median()

    Source: Rony et al. 2019 (arXiv 1811.09600), algorithm 1.
    """
    nearest = Nearest(model, x, y, "L2", within)
    rows = nearest.open
    change = torch.zeros_like(x)
    size = torch.full(y.shape, LENGTH, dtype=torch.float64, device=y.device)
    for number in range(steps):
        if len(rows) == 0:
            break
        point = x[rows] + change[rows]
        logits, _, gradient, finite = input_gradient(model, point, y[rows], cross_entropy)
        margin = nearest.see(rows, point, logits, backwards=1, finite=finite)
        length = lengths(gradient, "L2")
        unit = gradient / per_example(torch.where(length > 0, length, 1.0), gradient).to(x.dtype)
        moved = change[rows] + cosine(1.0, 0.01, number, steps) * unit
        size[rows] *= torch.where(margin < 0, 1 - factor, 1 + factor)
        scale = (size[rows] / lengths(moved, "L2")).nan_to_num(0.0, 0.0)
        moved = moved * per_example(scale, moved).to(x.dtype)
        change[rows] = (x[rows] + moved).clamp(0, 1) - x[rows]
        rows = rows[finite & (nearest.distance[rows] > within)]
    if len(rows):
        nearest.look(rows, x[rows] + change[rows])
    nearest.refine()
    return nearest.distances()


def need_l2(name: str, norm: str) -> None:
    """Require L2.

    Raises:
        UserError: the norm is another one.
    """
    if norm != "L2":
        raise UserError(f"{name} measures distances in L2, not in {norm}: take FMN or FAB for that")
