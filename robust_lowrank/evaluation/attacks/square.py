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
from robust_lowrank.evaluation.network.fixed_batch import UNKNOWN, ahead
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.ranges import Tries
from robust_lowrank.threat import KeyedNoise, Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # the last move before the part of a window is halved
BLOCK = 64  # moves whose random numbers are drawn at once
MEMORY = 0.1  # the weight of the last moves in the share of those that change a point
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
    """One restart: the points of some examples, and what is known of them; every tensor has a row for each of `rows`."""

    def __init__(self, model: nn.Module, search: Search, rows: Tensor, threat: Threat) -> None:
        self.model, self.search, self.rows = model, search, rows
        self.y = search.y[rows]
        self.nonfinite: Tensor = torch.zeros_like(self.y, dtype=torch.bool)
        self.queries: Tensor = torch.zeros_like(self.y)
        self.moves: Moves = _moves(search.x[rows], threat)
        self.changes = UNKNOWN  # the share of late moves that changed a point

    def run(self, noise: KeyedNoise, queries: int, p_init: float) -> None:
        """Walk from the start until every example is broken or has had its queries."""
        self.point = self.moves.start(noise)
        self.margin, finite = self._evaluate(self.point, self.y)
        self.nonfinite |= ~finite
        self.queries += 1
        for step, (count, part) in enumerate(blocks(queries - 1, p_init), 1):
            here = (self.margin >= 0).nonzero().squeeze(1)
            if len(here) == 0:
                break
            planned = self.moves.plan(replace(noise.of(here), step=step).uniform((count, self.moves.numbers)), part)
            self._walk(here, planned, count)
        self._record()

    def _walk(self, here: Tensor, planned: tuple[Tensor, ...], count: int) -> None:
        """Make the planned moves, tensors (K, count, ...), of the points `here`, several at once of each where pieces have room.

        Moves that are evaluated together all start from the same point: those up to the first one that is taken are what they
        would have been one after the other, and the others are made again from where that one leads.
        """
        made = torch.zeros_like(here)
        while True:
            left = ((made < count) & (self.margin[here] >= 0)).nonzero().squeeze(1)
            if len(left) == 0:
                return
            rows, number = here[left], ahead(self.model, len(left), count, ending=self.changes)
            move = made[left, None] + torch.arange(number, device=here.device)
            example, place = (move < count).nonzero(as_tuple=True)
            every = rows[example]
            candidates = self.moves.move(self.point[every], every, *(plan[left[example], move[example, place]] for plan in planned))
            margin, finite = self._evaluate(candidates, self.y[every])
            first, taken = _first(margin < self.margin[every], example, place, len(left), number)
            done = torch.where(taken < 0, (count - move[:, 0]).clamp(max=number), first + 1)
            made[left] += done
            self.queries[rows] += done
            self.nonfinite[every[~finite & (place < done[example])]] = True
            went = (taken >= 0).nonzero().squeeze(1)
            self.point[rows[went]] = candidates[taken[went]]
            self.margin[rows[went]] = margin[taken[went]]
            self.moves.settle(rows[went], taken[went])
            self.changes += MEMORY * (len(went) / int(done.sum()) - self.changes)

    def _evaluate(self, point: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the margins, infinite where logits are not finite, and where they are."""
        logits = self.model(point.reshape(-1, *self.search.x.shape[1:]))
        finite = logits.isfinite().all(dim=1)
        return torch.where(finite, margins(logits, y).double(), torch.inf), finite

    def _record(self) -> None:
        """Tell the search of the points, where they are the best, and of what they cost."""
        rows, search = self.rows, self.search
        better = self.margin < search.margin[rows]
        best = rows[better]
        search.best[best] = self.point[better].reshape(-1, *search.x.shape[1:])
        search.margin[best] = self.margin[better]
        search.broken[rows] |= self.margin < 0
        search.nonfinite[rows] |= self.nonfinite
        search.forwards[rows] += self.queries


def _first(taken: Tensor, example: Tensor, place: Tensor, examples: int, number: int) -> tuple[Tensor, Tensor]:
    """Return the place of each example's first move that is taken and its row among all moves, -1 where there is none."""
    row = torch.full((examples, number), -1, device=taken.device)
    row[example[taken], place[taken]] = taken.nonzero().squeeze(1)
    first = (row >= 0).long().argmax(dim=1)
    return first, row.gather(1, first[:, None]).squeeze(1)


def _moves(x: Tensor, threat: Threat) -> Moves:
    grid = Grid(*image_view(tuple(x.shape[1:])))
    if threat.norm == "Linf":
        return LinfMoves(x, threat, grid)
    if threat.norm not in ORDERS:
        raise unknown_name("norm of square", threat.norm, ["Linf", *ORDERS])
    return LpMoves(x, threat, grid, ORDERS[threat.norm])
