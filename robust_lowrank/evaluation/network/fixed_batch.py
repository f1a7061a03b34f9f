"""Batches of a fixed size give an example the same logits, to the last bit, whatever is beside it."""

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.network.target import Target

PIECE = {"cpu": 32}  # rows that a network sees at once; larger is faster, and what is padded is wasted
PIECE_ELSEWHERE = 256


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
        self.meter.count(len(x))
        logits = torch.cat([self._piece(piece) for piece in x.split(self.piece)])
        self.meter.watch(logits)
        return logits

    def _piece(self, x: Tensor) -> Tensor:
        missing = self.piece - len(x)
        filled = torch.cat([x, x[-1:].detach().expand(missing, *x.shape[1:])]) if missing else x
        return self.target(filled)[: len(x)]
