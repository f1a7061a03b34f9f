"""DeepFool steps onto the nearest of the linearised decision boundaries."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.gradients import linearise, runner_up_classes
from robust_lowrank.evaluation.attacks.hyperplane import DUALS, project_onto_hyperplane
from robust_lowrank.evaluation.attacks.nearest import REFINEMENTS, Distances, Nearest, NearestAttack
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.ranges import Factor, Tries
from robust_lowrank.threat import KeyedNoise, Threat


class DeepFool(NearestAttack):
    """The nearest input of another class, sought by steps to the nearest linearised class boundary."""

    attack: Literal["deepfool"] = "deepfool"
    turn: ClassVar[int] = 70
    steps: Tries = 50
    overshoot: Factor = 0.02
    candidates: Tries = 10

    def cost(self, classes: int, norm: str) -> int:
        """Return a forward and a backward for each rival class a step, one on both ends, and a final search."""
        return self.steps * min(self.candidates, classes) + 2 + REFINEMENTS

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, *, noise: KeyedNoise, within: float) -> Distances:
        """Take the steps."""
        options = {"steps": self.steps, "overshoot": self.overshoot, "candidates": self.candidates}
        return nearest_by_deepfool(model, x, y, norm, **options, within=within)


def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    within: float | None = None,
) -> Attempt:
    """Look for a near misclassified input by DeepFool, and claim those within eps; one beyond `within` (eps) is brought nearer.

    Example:
        >>> deepfool(model, x, y, L2(0.5)).claimed

    Source: Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599).
    """
    enough = threat.eps if within is None else within
    nearest = nearest_by_deepfool(model, x, y, threat.norm, steps=steps, overshoot=overshoot, candidates=candidates, within=enough)
    return nearest.attempt(x, threat)


def nearest_by_deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    *,
    steps: int = 50,
    overshoot: float = 0.02,
    candidates: int = 10,
    within: float = 0.0,
) -> Distances:
    """Return the misclassified inputs that DeepFool finds, after a final search for the boundary if not `within` already.

    Of the `candidates` classes of largest clean logits, the label among them, each step takes the one whose linearised boundary
    is nearest in the norm, and goes onto it by the shortest way within [0, 1], times 1 + `overshoot`. Without the walls of
    [0, 1] that is algorithm 2 of the paper. A step costs a forward pass and `candidates` - 1 backward ones.

    Example:
        >>> nearest_by_deepfool(model, x, y, "L2").distance.median()

    Source: Moosavi-Dezfooli et al. 2016 (arXiv 1511.04599).
    """
    nearest = Nearest(model, x, y, norm, within)
    rows = nearest.open
    classes, point = runner_up_classes(nearest.logits, y, candidates - 1)[rows], x[rows]
    for _ in range(steps):
        if len(rows) == 0:
            break
        linear = linearise(model, point, y[rows], classes)
        margin = nearest.see(rows, point, linear.logits, backwards=classes.shape[1], finite=linear.finite)
        size = torch.linalg.vector_norm(linear.gradient.double().flatten(2), ord=DUALS[norm], dim=2)
        chosen = (linear.gap.double().abs() / size).nan_to_num(torch.inf).argmin(dim=1)
        each = torch.arange(len(rows), device=rows.device)
        w, gap = linear.gradient[each, chosen], linear.gap[each, chosen].double()
        b = (w.double() * point.double()).flatten(1).sum(dim=1) - gap
        moved = (point + (1 + overshoot) * project_onto_hyperplane(point, w, b, norm)).clamp(0, 1)
        left = ((margin >= 0) & linear.finite & (moved != point).flatten(1).any(dim=1)).nonzero().squeeze(1)
        rows, classes, point = rows[left], classes[left], moved[left]
    if len(rows):
        nearest.look(rows, point)
    nearest.refine()
    return nearest.distances()
