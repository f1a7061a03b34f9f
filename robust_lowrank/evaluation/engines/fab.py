"""FAB: to the boundary by projections onto linearised decision boundaries, biased towards the clean input."""

import itertools

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.engines.hyperplane import ORDERS, lengths, way
from robust_lowrank.evaluation.engines.linearise import linearise, rivals
from robust_lowrank.evaluation.engines.nearest import Distances, Nearest, broadcast
from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.threat import Threat

ALPHA_MAX = 0.1
ETA = 1.05
BETA = 0.9


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    noise: KeyedNoise,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    within: float | None = None,
) -> Attempt:
    """Look for the nearest misclassified inputs by targeted FAB, until they are as near as `within`, without it eps.

    Example:
        >>> noise = KeyedNoise(0, "fab", torch.arange(len(x)))
        >>> fab(model, x, y, Linf(8 / 255), noise=noise).claimed

    Source: Croce and Hein 2020 (arXiv 1907.02044), with the parameters it has in AutoAttack standard (arXiv 2003.01690).
    """
    enough = threat.eps if within is None else within
    found = nearest_by_fab(model, x, y, threat.norm, noise=noise, steps=steps, restarts=restarts, targets=targets, within=enough)
    return found.attempt(x, threat)


def nearest_by_fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    *,
    noise: KeyedNoise,
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    within: float = 0.0,
) -> Distances:
    """Return the nearest misclassified inputs that targeted FAB finds; an example is finished at a distance of `within`.

    The targets are the classes of largest clean logits. For each of them the first of `restarts` begins at the clean input, the
    others at half the distance of the nearest found so far, or of `within` if that is given. An example costs two forward
    passes and a backward one a step, one forward pass for the clean input, and three for a final search if something was found.

    Example:
        >>> noise = KeyedNoise(0, "fab", torch.arange(len(x)))
        >>> nearest_by_fab(model, x, y, "L2", noise=noise).distance.median()

    Source: Croce and Hein 2020 (arXiv 1907.02044), algorithm 1.
    """
    nearest = Nearest(model, x, y, norm, within)
    order = rivals(nearest.logits, y, targets)
    for number, restart in itertools.product(range(order.shape[1]), range(restarts)):
        rows = nearest.open
        if len(rows) == 0:
            break
        start = _random_start(nearest, noise.at(restart=restart, step=number)) if restart else x
        _descend(nearest, rows, order[rows, number], start[rows], steps)
    nearest.refine()
    return nearest.distances()


def _descend(nearest: Nearest, rows: Tensor, target: Tensor, point: Tensor, steps: int) -> None:
    """Go from `point` to the boundary with `target` and along it; an example leaves when it is finished or nothing is finite."""
    for _ in range(steps):
        x, y = nearest.x[rows], nearest.y[rows]
        linear = linearise(nearest.model, point, y, target[:, None])
        nearest.see(rows, point, linear.logits, backwards=1, finite=linear.finite)
        w = linear.gradient[:, 0]
        b = (w.double() * point.double()).flatten(1).sum(dim=1) - linear.gap[:, 0].double()
        point = step(x, point, w, b, nearest.norm)
        wrong = nearest.look(rows, point) < 0
        point = torch.where(broadcast(wrong, x), x + BETA * (point - x), point)
        left = (linear.finite & (nearest.distance[rows] > nearest.within)).nonzero().squeeze(1)
        rows, target, point = rows[left], target[left], point[left]
        if len(rows) == 0:
            return


def step(x: Tensor, point: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """Return where FAB goes from `point`: beyond the hyperplane w . z = b, between the projections of `point` and of `x`.

    The nearer `point` is to the hyperplane compared to the clean input `x`, the less counts the projection of `x`.
    """
    here, origin = way(point, w, b, norm), way(x, w, b, norm)
    near, far = (lengths(change, norm).clamp(min=1e-8) for change in (here, origin))
    alpha = broadcast((near / (near + far)).clamp(max=ALPHA_MAX), x).to(x.dtype)
    return ((1 - alpha) * (point + ETA * here) + alpha * (x + ETA * origin)).clamp(0, 1)


def _random_start(nearest: Nearest, noise: KeyedNoise) -> Tensor:
    """Return a point in a random direction, at half the distance found so far or at half the largest one that matters."""
    x, norm = nearest.x, nearest.norm
    shape = x.shape[1:]
    direction = 2 * noise.uniform(shape) - 1 if norm == "Linf" else noise.normal(shape)
    farthest = nearest.within or x[0].numel() ** (1 / ORDERS[norm])
    radius = nearest.distance.clamp(max=farthest) / 2 / lengths(direction, norm)
    return (x + broadcast(radius, x) * direction).clamp(0, 1).to(x.dtype)
