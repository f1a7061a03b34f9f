"""FAB projects onto linearised decision boundaries, biased towards the clean input."""

import itertools
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.apgd import STEPS, TARGETS
from robust_lowrank.evaluation.attacks.base import named
from robust_lowrank.evaluation.attacks.gradients import linearise, runner_up_classes
from robust_lowrank.evaluation.attacks.hyperplane import ORDERS, lengths, project_onto_hyperplane
from robust_lowrank.evaluation.attacks.nearest import REFINEMENTS, Distances, Nearest, NearestAttack
from robust_lowrank.evaluation.network.fixed_batch import ahead
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, Threat, per_example

ALPHA_MAX = 0.1
ETA = 1.05
BETA = 0.9
RARE = 0.02  # the share of targets that end a search: what FAB alone finds is little


class FAB(NearestAttack):
    """The nearest input of another class, sought by projecting onto linearised class boundaries, target by target."""

    attack: Literal["fab"] = "fab"
    turn: ClassVar[int] = 80
    title: ClassVar[str | None] = "FAB"
    steps: Tries = STEPS
    restarts: Tries = 1
    targets: Tries = TARGETS

    @property
    def label(self) -> str:
        """The name in results, such as fab-t."""
        return self.name or named("fab-t", self.steps, STEPS, self.restarts)

    def cost(self, classes: int, norm: str) -> int:
        """Return two forwards and a backward a step, for every target and restart, one on the clean input, and a final search."""
        return 1 + 3 * min(self.targets, classes - 1) * self.restarts * self.steps + REFINEMENTS

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, *, noise: KeyedNoise, within: float) -> Distances:
        """Take the steps."""
        options = {"steps": self.steps, "restarts": self.restarts, "targets": self.targets}
        return nearest_by_fab(model, x, y, norm, noise=noise, **options, within=within)


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
    nearest = nearest_by_fab(model, x, y, threat.norm, noise=noise, steps=steps, restarts=restarts, targets=targets, within=enough)
    return nearest.attempt(x, threat)


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
    order = runner_up_classes(nearest.logits, y, targets)
    trials = list(itertools.product(range(order.shape[1]), range(restarts)))
    while trials and len(rows := nearest.open):
        count = ahead(model, len(rows), len(trials) if restarts == 1 else 1, ending=RARE)  # restarts begin at what was found
        begun, trials = trials[:count], trials[count:]
        starts = [_random_start(nearest, noise.at(restart=k, step=number)) if k else x for number, k in begun]
        wave = nearest.side_by_side(rows, count)
        target = torch.cat([order[rows, number] for number, _ in begun])
        _descend(wave, target, torch.cat([start[rows] for start in starts]), steps)
        nearest.merge(rows, wave)
    nearest.refine()
    return nearest.distances()


def _descend(nearest: Nearest, target: Tensor, point: Tensor, steps: int) -> None:
    """Go from `point` to the boundary with `target` and along it; an example leaves when it is finished or nothing is finite."""
    rows = nearest.open
    for _ in range(steps):
        x, y = nearest.x[rows], nearest.y[rows]
        linear = linearise(nearest.model, point, y, target[:, None])
        nearest.see(rows, point, linear.logits, backwards=1, finite=linear.finite)
        w = linear.gradient[:, 0]
        b = (w.double() * point.double()).flatten(1).sum(dim=1) - linear.gap[:, 0].double()
        point = step(x, point, w, b, nearest.norm)
        wrong = nearest.look(rows, point) < 0
        point = torch.where(per_example(wrong, x), x + BETA * (point - x), point)
        left = (linear.finite & nearest.going[rows]).nonzero().squeeze(1)
        rows, target, point = rows[left], target[left], point[left]
        if len(rows) == 0:
            return


def step(x: Tensor, point: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """Return where FAB goes from `point`: beyond the hyperplane w . z = b, between the projections of `point` and of `x`.

    The nearer `point` is to the hyperplane compared to the clean input `x`, the less counts the projection of `x`.
    """
    here, origin = project_onto_hyperplane(point, w, b, norm), project_onto_hyperplane(x, w, b, norm)
    near, far = (lengths(change, norm).clamp(min=1e-8) for change in (here, origin))
    alpha = per_example((near / (near + far)).clamp(max=ALPHA_MAX), x).to(x.dtype)
    return ((1 - alpha) * (point + ETA * here) + alpha * (x + ETA * origin)).clamp(0, 1)


def _random_start(nearest: Nearest, noise: KeyedNoise) -> Tensor:
    """Return a point in a random direction, at half the distance found so far or at half the largest one that matters."""
    x, norm = nearest.x, nearest.norm
    shape = x.shape[1:]
    direction = 2 * noise.uniform(shape) - 1 if norm == "Linf" else noise.normal(shape)
    farthest = nearest.within or x[0].numel() ** (1 / ORDERS[norm])
    radius = nearest.distance.clamp(max=farthest) / 2 / lengths(direction, norm)
    return (x + per_example(radius, x) * direction).clamp(0, 1).to(x.dtype)
