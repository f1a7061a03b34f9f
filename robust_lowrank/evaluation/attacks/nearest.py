"""A minimal-norm attack under way knows the nearest misclassified input of every example."""

from collections.abc import Sequence
from copy import copy
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.hyperplane import lengths
from robust_lowrank.evaluation.attacks.trials import overtaken, repeated
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.threat import KeyedNoise, Threat, per_example

REFINEMENTS = 3


class Distances(NamedTuple):
    """The nearest misclassified inputs; every field has a row an example."""

    inputs: Tensor  # the nearest misclassified input found, the clean one where there is none, (N, ...)
    distance: Tensor  # float64, infinite where nothing was found, 0 where the clean input is misclassified
    nonfinite: Tensor  # bool: logits or gradients were not finite somewhere on the way
    forwards: Tensor  # int64, evaluations of the model spent on this example
    backwards: Tensor  # int64

    def attempt(self, x: Tensor, threat: Threat) -> Attempt:
        """Return what this is worth within a threat model: claimed are distances up to eps, the rest is projected."""
        inputs = threat.project(x, self.inputs)
        return Attempt(inputs, self.distance <= threat.eps, self.nonfinite, self.forwards, self.backwards)


class NearestAttack(NativeAttack):
    """An attack that looks for the nearest misclassified input, until one is near enough."""

    at_once: ClassVar[bool] = True
    minimal: ClassVar[bool] = True

    def nearest(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, *, noise: KeyedNoise, within: float) -> Distances:
        """Search, each example until an input is as near as `within`."""
        raise NotImplementedError

    def attempt(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise, radii: Sequence[float] = ()
    ) -> Attempt:
        """Search until an input lies within all radii, without any that of the threat model, and claim what lies in that one.

        Raises:
            UserError: the attack cannot be put in the norm of the threat model.
        """
        if threat.norm not in self.norms:
            raise UserError(f"{self.label} measures distances in {' or '.join(self.norms)}, not in {threat.norm}")
        return self.nearest(model, x, y, threat.norm, noise=noise, within=min(radii, default=threat.eps)).attempt(x, threat)


class Nearest:
    """The nearest misclassified input found so far for each of N examples, and what the search for it cost.

    An attack tells it of every evaluation by `see`. An example is finished when one is found at a distance of `within` or less.

    Example:
        >>> nearest = Nearest(model, x, y, "L2")
        >>> rows = nearest.open
        >>> margin = nearest.see(rows, points, model(points))
        >>> nearest.distances()
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    norm: str
    within: float
    trials: int
    forwards: Tensor
    backwards: Tensor

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, norm: str, within: float = 0.0) -> None:
        self.model, self.norm, self.within = model, norm, within
        self._begin(x, y, trials=1)
        with torch.no_grad():
            self.logits: Tensor = model(x)
        self.clean: Tensor = self.see(torch.arange(len(y), device=y.device), x, self.logits)

    def _begin(self, x: Tensor, y: Tensor, trials: int) -> None:
        self.x, self.y, self.trials = x, y, trials
        self.inputs: Tensor = x.clone()
        self.distance: Tensor = torch.full(y.shape, torch.inf, dtype=torch.float64, device=y.device)
        self.margin: Tensor = torch.full_like(self.distance, torch.inf)
        self.nonfinite: Tensor = torch.zeros_like(y, dtype=torch.bool)
        self.forwards, self.backwards = torch.zeros_like(y), torch.zeros_like(y)

    @property
    def open(self) -> Tensor:
        """The rows that are not finished, (K,) int64."""
        return (self.distance > self.within).nonzero().squeeze(1)

    @property
    def going(self) -> Tensor:
        """Say of every row whether it is open, and no trial before it has finished the same example, (N,) bool."""
        finished = self.distance <= self.within
        return ~finished & ~overtaken(finished, self.trials)

    def side_by_side(self, rows: Tensor, trials: int) -> "Nearest":
        """Return what is known of some rows before so many trials that begin together, as `Search.side_by_side` does."""
        wave = copy(self)
        wave._begin(repeated(self.x[rows], trials), repeated(self.y[rows], trials), trials)
        return wave

    def merge(self, rows: Tensor, wave: "Nearest") -> None:
        """Take over what trials side by side have found on these rows, as `Search.merge` does."""
        for trial in torch.arange(len(wave.y), device=rows.device).split(len(rows)):
            going = (self.distance[rows] > self.within).nonzero().squeeze(1)
            here, there = rows[going], trial[going]
            better = (wave.distance[there] < self.distance[here]).nonzero().squeeze(1)
            for name in ("inputs", "distance", "margin"):
                getattr(self, name)[here[better]] = getattr(wave, name)[there[better]]
            self.nonfinite[here] |= wave.nonfinite[there]
            self.forwards[here] += wave.forwards[there]
            self.backwards[here] += wave.backwards[there]

    def see(self, rows: Tensor, points: Tensor, logits: Tensor, *, backwards: int = 0, finite: Tensor | None = None) -> Tensor:
        """Take note of one forward and so many backward passes at `points`; `finite` says so of the gradients.

        Returns the margins, (K,) float64, infinite where logits are not finite.
        """
        answered = logits.isfinite().all(dim=1)
        margin = torch.where(answered, margins(logits, self.y[rows]).double(), torch.inf)
        distance = lengths(points.double() - self.x[rows].double(), self.norm)
        better = (margin < 0) & (distance < self.distance[rows])
        self.inputs[rows] = torch.where(per_example(better, points), points, self.inputs[rows])
        self.distance[rows] = torch.where(better, distance, self.distance[rows])
        self.margin[rows] = torch.where(better, margin, self.margin[rows])
        self.nonfinite[rows] |= ~(answered if finite is None else answered & finite)
        self.forwards[rows] += 1
        self.backwards[rows] += backwards
        return margin

    def look(self, rows: Tensor, points: Tensor) -> Tensor:
        """Evaluate `points`, take note of them, and return their margins as `see` does."""
        with torch.no_grad():
            return self.see(rows, points, self.model(points))

    def refine(self) -> None:
        """Look for the boundary between the clean inputs and what was found for those that are open: the final search of FAB.

        Each of the three evaluations is where the margin would be 0 if it were linear between the two ends, and 1 % of what
        lies beyond, since a point on the boundary itself is worth nothing.
        """
        rows = ((self.distance > self.within) & self.distance.isfinite()).nonzero().squeeze(1)
        if len(rows) == 0:
            return
        x, change = self.x[rows], self.inputs[rows] - self.x[rows]
        right, wrong = self.clean[rows], self.margin[rows]
        low, high = torch.zeros_like(right), torch.ones_like(right)
        for _ in range(REFINEMENTS):
            zero = (right / (right - wrong)).nan_to_num(0.5)
            share = low + (high - low) * (zero + 0.01 * (1 - zero))
            margin = self.look(rows, (x + per_example(share, x).to(x.dtype) * change).clamp(0, 1))
            beyond = margin < 0
            low, high = torch.where(beyond, low, share), torch.where(beyond, share, high)
            right, wrong = torch.where(beyond, right, margin), torch.where(beyond, margin, wrong)

    def distances(self) -> Distances:
        """Return what was found."""
        return Distances(self.inputs, self.distance, self.nonfinite, self.forwards, self.backwards)
