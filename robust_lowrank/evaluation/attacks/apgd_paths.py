"""A path of APGD says where the next point of every example lies, and when its step is shortened and its best point taken up."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_lowrank.threat import Threat, per_example


@dataclass
class Path(ABC):
    """The point of every example on its way up the loss, and the best one it has seen; every tensor has a row an example."""

    threat: Threat
    x: Tensor
    point: Tensor
    loss: Tensor
    gradient: Tensor
    steps: int

    def __post_init__(self) -> None:
        self.best: Tensor = self.point
        self.best_loss: Tensor = self.loss
        self.best_gradient: Tensor = self.gradient
        self.since_check: int = 0

    @abstractmethod
    def next(self) -> Tensor:
        """Return the point to evaluate next."""

    @abstractmethod
    def arrive(self, point: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Take note of an evaluation of the point that `next` gave."""

    def keep(self, kept: Tensor) -> None:
        """Go on with these rows alone."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[kept])

    def _record(self, point: Tensor, loss: Tensor, gradient: Tensor) -> None:
        better = loss > self.best_loss
        self.best, self.best_gradient = _choose(better, point, self.best), _choose(better, gradient, self.best_gradient)
        self.best_loss = torch.where(better, loss, self.best_loss)
        self.point, self.loss, self.gradient = point, loss, gradient
        self.since_check += 1

    def _return_to_best(self, rows: Tensor) -> None:
        """Take up the best point of these rows, at a checkpoint: the count of steps since the last one begins again."""
        self.since_check = 0
        self.point, self.gradient = _choose(rows, self.best, self.point), _choose(rows, self.best_gradient, self.gradient)


class MomentumPath(Path):
    """Steepest steps with momentum, for Linf and L2.

    At a checkpoint an example's step is halved and its best point taken up again if its loss rose in 3/4 of the steps at most,
    or if nothing was gained since the last checkpoint, where the step had been kept.

    Source: Croce and Hein 2020 (arXiv 2003.01690), algorithm 1.
    """

    period: int
    decrement: int
    shortest: int

    MOMENTUM, RHO = 0.75, 0.75

    def __post_init__(self) -> None:
        super().__post_init__()
        self.period, self.decrement, self.shortest = (max(int(share * self.steps), 1) for share in (0.22, 0.03, 0.06))
        self.step: Tensor = torch.full_like(self.loss, 2 * self.threat.eps)
        self.previous: Tensor | None = None
        self.rises: Tensor = torch.zeros_like(self.loss)
        self.checked_loss: Tensor = self.loss
        self.halved: Tensor = torch.ones_like(self.loss, dtype=torch.bool)

    def next(self) -> Tensor:
        """Return the point after a steepest step and a quarter of the last move; the first step is without momentum."""
        steepest = self.threat.steepest(self.gradient)
        aim = self.threat.project(self.x, self.point + per_example(self.step, self.x).to(self.x.dtype) * steepest)
        if self.previous is None:
            return aim
        ahead = self.MOMENTUM * (aim - self.point) + (1 - self.MOMENTUM) * (self.point - self.previous)
        return self.threat.project(self.x, self.point + ahead)

    def arrive(self, point: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Take note, and halve steps at checkpoints, which follow each other ever faster."""
        self.rises += loss > self.loss
        self.previous = self.point
        self._record(point, loss, gradient)
        if self.since_check == self.period:
            self._check()

    def _check(self) -> None:
        oscillates = self.rises <= self.RHO * self.period
        stalls = ~self.halved & (self.checked_loss >= self.best_loss)
        self.halved = oscillates | stalls
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self._return_to_best(self.halved)
        self.rises, self.checked_loss = torch.zeros_like(self.rises), self.best_loss
        self.period = max(self.period - self.decrement, self.shortest)


class SparsePath(Path):
    """Steps along the signs of the largest gradient entries, for L1, as many as two thirds of the entries the best point changes.

    That number is rounded up, as upstream does: a best point that changes two entries is never made to change one.
    At a checkpoint, an example whose best point has become sparser by 5 % goes back to it and to the full step eps;
    for any other one the step is divided by 1.5, down to eps / 10.

    Source: Croce and Hein 2021 (arXiv 2103.01208), algorithm 1.
    """

    SPARSER, DIVISOR, SMALLEST_STEP = 0.95, 1.5, 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.period: int = max(int(0.04 * self.steps), 1)
        self.step: Tensor = torch.full_like(self.loss, self.threat.eps)
        self.changed: Tensor = self._changes(self.point)

    def next(self) -> Tensor:
        """Return the point after a step that the largest gradient entries share equally."""
        size = self.gradient.flatten(1).abs()
        features = size.shape[1]
        smallest = (features - self.changed / 1.5).long().clamp(0, features - 1)  # rank, ascending, of the least entry to move
        threshold = size.sort(dim=1).values.gather(1, smallest[:, None])
        signs = torch.where(size >= threshold, self.gradient.flatten(1).sign(), 0)
        length = self.step / signs.count_nonzero(dim=1).clamp(min=1)
        return self.threat.project(self.x, self.point + (length[:, None] * signs).reshape(self.x.shape).to(self.x.dtype))

    def arrive(self, point: Tensor, loss: Tensor, gradient: Tensor) -> None:
        """Take note, and adapt steps and sparsity at checkpoints."""
        self._record(point, loss, gradient)
        if self.since_check == self.period:
            self._check()

    def _check(self) -> None:
        changed = self._changes(self.best)
        sparser = changed < self.SPARSER * self.changed
        shorter = (self.step / self.DIVISOR).clamp(min=self.SMALLEST_STEP * self.threat.eps)
        self.step = torch.where(sparser, self.threat.eps, shorter)
        self._return_to_best(sparser)
        self.changed = changed

    def _changes(self, point: Tensor) -> Tensor:
        return (point != self.x).flatten(1).sum(dim=1)


def _choose(rows: Tensor, chosen: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(per_example(rows, chosen), chosen, otherwise)
