"""Square searches windows of an image at random, without gradients."""

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.evaluation.attacks.base import NativeAttack, named
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.attacks.square_moves import Grid, LinfMoves, LpMoves, Moves
from robust_lowrank.evaluation.attacks.view import image_view
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # the last move before the part of a window is halved
BLOCK = 64  # moves whose random numbers are drawn at once
ORDERS = {"L1": 1, "L2": 2}
QUERIES = 5000  # of AutoAttack standard


class Square(NativeAttack):
    """Random search with square patches, without gradients."""

    attack: Literal["square"] = "square"
    turn: ClassVar[int] = 90
    title: ClassVar[str | None] = "Square"
    queries: Tries = QUERIES
    restarts: Tries = 1
    gradients: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """The name in results, such as square, or square-1000 with fewer queries."""
        return self.name or named("square", self.queries, QUERIES, self.restarts)

    def cost(self, classes: int, norm: str) -> int:
        """Return the queries of all restarts."""
        return self.restarts * self.queries

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Search."""
        return square(model, x, y, threat, noise=noise, queries=self.queries, restarts=self.restarts)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    noise: KeyedNoise,
    queries: int = 5000,
    restarts: int = 1,
    p_init: float = 0.8,
) -> Attempt:
    """Move random windows of each input and keep what lowers the margin, with `queries` evaluations a restart, the start included.

    A window has the part `p_init` of the image at first and a half, a quarter, ... of it later, at the moves that AutoAttack has
    for this; also as there, a start has vertical stripes (Linf) or tiles (L1, L2). Windows reach every pixel, and every example
    has windows of its own. Inputs that are no images are taken for one channel of the most square image. An example is finished
    at the first input that breaks it.

    Example:
        >>> square(model, x, y, Linf(8 / 255), noise=KeyedNoise(0, "square", torch.arange(len(x))), queries=1000)

    Raises:
        UserError: there is no query, or the norm of the threat model is not Linf, L1 or L2.

    Source: Andriushchenko et al. 2020 (arXiv 1912.00049), with the margin as loss; L1: Croce and Hein 2021 (arXiv 2103.01208).
    """
    if queries < 1:
        raise UserError(f"square with queries={queries} evaluates nothing: take at least 1 (5000 is usual)")
    search = Search(x, y)
    with torch.no_grad():
        for restart in range(restarts):
            rows = search.open
            if len(rows) == 0:
                break
            _Walk(model, search, rows, threat).run(replace(noise.of(rows), restart=restart), queries, p_init)
    return search.attempt()


def blocks(moves: int, p_init: float) -> Iterator[tuple[int, float]]:
    """Yield how many moves come next, at most `BLOCK`, and the part of the image that their windows have.

    Example:
        >>> list(blocks(60, 0.8))
        [(11, 0.8), (40, 0.4), (9, 0.2)]
    """
    begin = 0
    while begin < moves:
        halved = bisect_left(HALVINGS, begin)
        last = HALVINGS[halved] if halved < len(HALVINGS) else math.inf
        count = int(min(BLOCK, last + 1 - begin, moves - begin))
        yield count, p_init / 2**halved
        begin += count


class _Walk:
    """One restart: the points of the examples that are still open, and what is known of them."""

    def __init__(self, model: nn.Module, search: Search, rows: Tensor, threat: Threat) -> None:
        self.model, self.search, self.rows = model, search, rows
        self.y = search.y[rows]
        self.nonfinite = torch.zeros_like(self.y, dtype=torch.bool)
        self.queries = 0
        self.moves = _moves(search.x[rows], threat)

    def run(self, noise: KeyedNoise, queries: int, p_init: float) -> None:
        """Walk from the start until every example is broken or has had its queries."""
        self.point = self.moves.start(noise)
        self.margin = self._evaluate()
        kept = self._leave()
        noise = noise if kept is None else noise.of(kept)
        for step, (count, part) in enumerate(blocks(queries - 1, p_init), 1):
            uniform = replace(noise, step=step).uniform((count, self.moves.numbers))
            planned = self.moves.plan(uniform, part)
            for number in range(count):
                if len(self.rows) == 0:
                    return
                self._move(*(plan[:, number] for plan in planned))
                kept = self._leave()
                if kept is not None:
                    noise, planned = noise.of(kept), tuple(plan[kept] for plan in planned)
        self._record(torch.ones_like(self.nonfinite))

    def _move(self, *planned: Tensor) -> None:
        overwritten = self.moves.move(self.point, *planned)
        margin = self._evaluate()
        taken = margin < self.margin
        self.margin = torch.where(taken, margin, self.margin)
        self.moves.settle(taken)
        for places, old in reversed(overwritten):
            self.point.scatter_(2, places, torch.where(taken[:, None, None], self.point.gather(2, places), old))

    def _evaluate(self) -> Tensor:
        logits = self.model(self.point.reshape(-1, *self.search.x.shape[1:]))
        finite = logits.isfinite().all(dim=1)
        self.nonfinite |= ~finite
        self.queries += 1
        return torch.where(finite, margins(logits, self.y).double(), torch.inf)

    def _leave(self) -> Tensor | None:
        """Let the broken examples go; return which rows are left if any went."""
        broken = self.margin < 0
        if not bool(broken.any()):
            return None
        self._record(broken)
        kept = (~broken).nonzero().squeeze(1)
        self.moves.keep(kept)
        self.rows, self.y, self.point = self.rows[kept], self.y[kept], self.point[kept]
        self.margin, self.nonfinite = self.margin[kept], self.nonfinite[kept]
        return kept

    def _record(self, which: Tensor) -> None:
        """Tell the search of the points of these rows, (K,) bool, if they are the best, and of what they cost."""
        rows, search = self.rows[which], self.search
        margin = self.margin[which]
        better = margin < search.margin[rows]
        best = rows[better]
        search.best[best] = self.point[which][better].reshape(-1, *search.x.shape[1:])
        search.margin[best] = margin[better]
        search.broken[rows] |= margin < 0
        search.nonfinite[rows] |= self.nonfinite[which]
        search.forwards[rows] += self.queries


def _moves(x: Tensor, threat: Threat) -> Moves:
    grid = Grid(*image_view(tuple(x.shape[1:])))
    if threat.norm == "Linf":
        return LinfMoves(x, threat, grid)
    if threat.norm not in ORDERS:
        raise unknown_name("norm of square", threat.norm, ["Linf", *ORDERS])
    return LpMoves(x, threat, grid, ORDERS[threat.norm])
