"""Batches of a fixed size give an example the same logits, to the last bit, whatever is beside it."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.network.target import Target

PIECE = {"cpu": 32}  # rows that a network sees at once; larger is faster, and what is padded is wasted
PIECE_ELSEWHERE = 256
HELD = 2**26  # bytes of inputs that are evaluated together, in the whole of several pieces
POOL = 32  # pieces
UNKNOWN = 0.1  # the chance that a trial ends those after it, where nothing is known of it


class FixedBatch(nn.Module):
    """Feeds a target pieces of one and the same number of rows, the last one filled up.

    Matrix products and convolutions sum in an order that depends on the size of the batch. After a hundred steps along the signs of
    gradients, such a last bit can decide a verdict. In batches of one size an example's sums do not depend on its place
    or its neighbours, so that verdicts do not depend on batches, shards or on which examples are still under attack.

    Example:
        >>> fixed = FixedBatch(Target(model, x))
        >>> bool((fixed(x)[3] == fixed(x[3:4])[0]).all())
        True
    """

    target: Target
    meter: Meter

    def __init__(self, target: Target, meter: Meter | None = None) -> None:
        super().__init__()
        self.target, self.meter = target, meter or Meter()
        self.piece: int = 1 if target.alone else PIECE.get(target.device.type, PIECE_ELSEWHERE)
        self.differentiated: int | None = None  # rows whose activations may be kept at a time, at least a piece; None: all

    @property
    def room(self) -> int:
        """The most inputs that are evaluated together to fill pieces: some pieces, or as many inputs as memory is meant for.

        Where passes are limited it is one: trials ahead may be in vain, and padding is not counted.
        """
        if self.meter.max_passes is not None:
            return 1
        return max(min(POOL * self.piece, HELD // self.target.bytes), 1)

    @property
    def classes(self) -> int:
        """The number of logits."""
        return self.target.classes

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return self.target.device

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, classes)."""
        if len(x) == 0:
            return x.new_zeros(0, self.classes)
        padding = -len(x) % self.piece
        self.meter.count(len(x), padding)
        logits = torch.cat([self._piece(piece) for piece in x.split(self.piece)])
        self.meter.watch(logits, padding)
        return logits

    def _piece(self, x: Tensor) -> Tensor:
        missing = self.piece - len(x)
        filled = torch.cat([x, x[-1:].detach().expand(missing, *x.shape[1:])]) if missing else x
        return self.target(filled)[: len(x)]


def differentiated(model: nn.Module, x: Tensor) -> int:
    """Return of how many inputs at a time gradients are taken, whose activations are kept until then."""
    if not isinstance(model, FixedBatch) or model.differentiated is None:
        return max(len(x), 1)
    return max(model.differentiated // model.piece, 1) * model.piece


def ahead(model: nn.Module, rows: int, most: int | None = None, *, ending: float = UNKNOWN) -> int:
    """Return how many trials of each of `rows` examples, of `most` that may come, to evaluate together so that pieces are full.

    Trials that an example makes one after the other may be made side by side where one rarely changes what comes after it:
    `ending` is the chance that it does, and those behind it are then in vain. The number is the one with which all trials are
    expected to take the fewest pieces. A model that fills no pieces up gets one trial at a time.

    Example:
        >>> ahead(FixedBatch(target), 3, 9), ahead(FixedBatch(target), 64, 9), ahead(FixedBatch(target), 20, 8, ending=0.02)
        (9, 1, 8)
    """
    if not isinstance(model, FixedBatch) or rows == 0:
        return 1
    room = max(model.room // rows, 1)
    return _cheapest(model.piece, rows, room if most is None else most, room, round(ending, 2))


@lru_cache(maxsize=4096)
def _cheapest(piece: int, rows: int, trials: int, room: int, ending: float) -> int:
    def pieces(count: int) -> float:
        """Return what trials take that are made so many at a time, each with the chance that it is still wanted."""
        each = range(0, trials, count)
        return sum((1 - ending) ** begun * math.ceil(rows * min(count, trials - begun) / piece) for begun in each)

    return min(range(1, min(room, trials) + 1), key=pieces, default=1)
