"""A search for each example's place on the curve of accuracy against eps, in the place of an attack at every radius."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.apgd import apgd, apgd_starts
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.fmn import FMN, nearest_by_fmn
from robust_lowrank.evaluation.attacks.gradients import Loss, cross_entropy, probability_margin
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, Threat, per_example

LOSSES: tuple[Loss, ...] = (cross_entropy, probability_margin)


class Curve(NativeAttack):
    """FMN says how far an example holds at most, and APGD on two losses tries the largest radius below that, until one holds.

    At radii below one that holds, an example counts as robust without an attack of its own there: a ball that contains those was
    searched in vain. Its verdicts say so (`implied-by`), and accuracies how many they are (`AccuracyRecord.implied`).
    """

    attack: Literal["curve"] = "curve"
    turn: ClassVar[int] = 55
    title: ClassVar[str | None] = "Curve search"
    at_once: ClassVar[bool] = True
    fmn_steps: Tries = 10
    steps: Tries = 25  # of APGD, on each of the losses

    def cost(self, classes: int, norm: str) -> int:
        """Return what FMN takes, and APGD at one radius."""
        return self.most(classes, norm, 1)

    def most(self, classes: int, norm: str, radii: int) -> int:
        """Return what FMN takes, and APGD at every radius: an example may break at the last step at each of them."""
        return FMN(steps=self.fmn_steps).cost(classes, norm) + radii * len(LOSSES) * 2 * (self.steps + apgd_starts(norm))

    def attempt(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise, radii: Sequence[float] = ()
    ) -> Attempt:
        """Search among the radii, ascending, of which `threat` has the last one; without them there is that one alone."""
        radii = radii or (threat.eps,)
        found = nearest_by_fmn(model, x, y, threat.norm, steps=self.fmn_steps, within=radii[0])
        inputs, distance, nonfinite, forwards, backwards = found
        held = torch.zeros_like(distance)
        for eps in reversed(radii):
            ball = threat.resized(eps)
            for number, loss in enumerate(LOSSES):
                rows = ((held == 0) & (distance > eps)).nonzero().squeeze(1)
                if len(rows) == 0:
                    break
                own = noise.of(rows).named(f"curve/{number}/{eps!r}")
                tried = apgd(model, x[rows], y[rows], ball, noise=own, loss=loss, steps=self.steps)
                better = tried.claimed | (distance[rows] > threat.eps)  # the most harmful input of what nothing breaks
                inputs[rows] = torch.where(per_example(better, x), tried.inputs, inputs[rows])
                distance[rows] = torch.where(tried.claimed, ball.distance(x[rows], tried.inputs), distance[rows])
                nonfinite[rows] |= tried.nonfinite
                forwards[rows] += tried.forwards
                backwards[rows] += tried.backwards
            held[(held == 0) & (distance > eps)] = eps
        return found.attempt(x, threat)._replace(held=held)
