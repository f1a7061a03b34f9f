"""DeepFool: step by step onto the nearest of the linearised decision boundaries."""

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.engines.hyperplane import DUALS, way
from robust_lowrank.evaluation.engines.linearise import linearise, rivals
from robust_lowrank.evaluation.engines.nearest import Distances, Nearest
from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.threat import Threat


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
    found = nearest_by_deepfool(model, x, y, threat.norm, steps=steps, overshoot=overshoot, candidates=candidates, within=enough)
    return found.attempt(x, threat)


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
    classes, point = rivals(nearest.logits, y, candidates - 1)[rows], x[rows]
    for _ in range(steps):
        if len(rows) == 0:
            break
        linear = linearise(model, point, y[rows], classes)
        margin = nearest.see(rows, point, linear.logits, backwards=classes.shape[1], finite=linear.finite)
        slope = torch.linalg.vector_norm(linear.gradient.double().flatten(2), ord=DUALS[norm], dim=2)
        chosen = (linear.gap.double().abs() / slope).nan_to_num(torch.inf).argmin(dim=1)
        each = torch.arange(len(rows), device=rows.device)
        w, gap = linear.gradient[each, chosen], linear.gap[each, chosen].double()
        b = (w.double() * point.double()).flatten(1).sum(dim=1) - gap
        moved = (point + (1 + overshoot) * way(point, w, b, norm)).clamp(0, 1)
        left = ((margin >= 0) & linear.finite & (moved != point).flatten(1).any(dim=1)).nonzero().squeeze(1)
        rows, classes, point = rows[left], classes[left], moved[left]
    if len(rows):
        nearest.look(rows, point)
    nearest.refine()
    return nearest.distances()
