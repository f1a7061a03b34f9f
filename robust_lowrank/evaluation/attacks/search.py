"""A search knows the best input of every example so far, and what it cost."""

import torch
from torch import Tensor

from robust_lowrank.evaluation.attacks.trials import overtaken, repeated
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.threat import per_example


class Search:
    """The best input found so far for each of N examples, and what the search for it cost.

    An attack tells it of every evaluation by `see`. An example is finished at the first input that breaks it: `open` gives the
    rows that are left, so that an attack carries no more than those, at the cost of one synchronisation with the device.

    Example:
        >>> search = Search(x, y)
        >>> rows = search.open
        >>> margin = search.see(rows, points, model(points))
        >>> search.attempt()
    """

    x: Tensor
    y: Tensor
    trials: int
    forwards: Tensor
    backwards: Tensor

    def __init__(self, x: Tensor, y: Tensor, *, trials: int = 1) -> None:
        self.x, self.y, self.trials = x, y, trials
        self.best: Tensor = x.clone()
        self.margin: Tensor = torch.full(y.shape, torch.inf, dtype=torch.float64, device=y.device)
        self.broken: Tensor = torch.zeros_like(y, dtype=torch.bool)
        self.nonfinite: Tensor = torch.zeros_like(self.broken)
        self.forwards, self.backwards = torch.zeros_like(y), torch.zeros_like(y)
        self.by: list[str] = [""] * len(y)

    @property
    def open(self) -> Tensor:
        """The rows that nothing broke so far, (K,) int64."""
        return (~self.broken).nonzero().squeeze(1)

    @property
    def going(self) -> Tensor:
        """Say of every row whether it is open, and no trial before it has broken the same example, (N,) bool."""
        return ~self.broken & ~overtaken(self.broken, self.trials)

    def side_by_side(self, rows: Tensor, trials: int) -> "Search":
        """Return a search for some rows that has each so many times, one trial after the other: trials that begin together.

        Those of an example that follow the first one to break it are in vain: `going` says so, and `merge` leaves them out.
        """
        return Search(repeated(self.x[rows], trials), repeated(self.y[rows], trials), trials=trials)

    def merge(self, rows: Tensor, wave: "Search") -> None:
        """Take over what a search side by side has found on these rows, as if its trials had been made one after the other."""
        for trial in torch.arange(len(wave.y), device=rows.device).split(len(rows)):
            going = (~self.broken[rows]).nonzero().squeeze(1)
            here, there = rows[going], trial[going]
            better = (wave.margin[there] < self.margin[here]).nonzero().squeeze(1)
            self.best[here[better]], self.margin[here[better]] = wave.best[there[better]], wave.margin[there[better]]
            self.broken[here] = wave.broken[there]
            self.nonfinite[here] |= wave.nonfinite[there]
            self.forwards[here] += wave.forwards[there]
            self.backwards[here] += wave.backwards[there]

    def see(self, rows: Tensor, points: Tensor, logits: Tensor, gradient: Tensor | None = None) -> Tensor:
        """Take note of one evaluation of `points`, inputs within the threat model, and of the gradient if there was one.

        Returns the margins, (K,) float64, infinite where logits are not finite.
        """
        self.count(rows, logits, gradient)
        margin = torch.where(logits.isfinite().all(dim=1), margins(logits, self.y[rows]).double(), torch.inf)
        better = margin < self.margin[rows]
        self.best[rows] = torch.where(per_example(better, points), points, self.best[rows])
        self.margin[rows] = torch.where(better, margin, self.margin[rows])
        self.broken[rows] |= margin < 0
        return margin

    def count(self, rows: Tensor, logits: Tensor, gradient: Tensor | None = None) -> None:
        """Take note of an evaluation's cost and of values that are not finite, but not of its points: they may lie anywhere."""
        finite = logits.isfinite().all(dim=1)
        self.forwards[rows] += 1
        if gradient is not None:
            self.backwards[rows] += 1
            finite = finite & gradient.isfinite().flatten(1).all(dim=1)
        self.nonfinite[rows] |= ~finite

    def add(self, rows: Tensor, attempt: Attempt, *, by: str) -> None:
        """Take over what an attack called `by` found on some rows; of inputs that break nothing the first attack's are kept."""
        fresh = attempt.claimed & ~self.broken[rows]
        taken = fresh | (self.forwards[rows] == 0)
        self.best[rows] = torch.where(per_example(taken, self.x), attempt.inputs, self.best[rows])
        for row in rows[fresh].tolist():
            self.by[row] = by
        self.broken[rows] |= attempt.claimed
        self.nonfinite[rows] |= attempt.nonfinite
        self.forwards[rows] += attempt.forwards
        self.backwards[rows] += attempt.backwards

    def attempt(self) -> Attempt:
        """Return what was found."""
        return Attempt(self.best, self.broken, self.nonfinite, self.forwards, self.backwards, self.by)
