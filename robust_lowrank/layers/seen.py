"""What one pass shows of a layer's gradient: enough to project it on bases that are not known yet."""

from typing import Any, NamedTuple

from torch import Tensor


class Seen(NamedTuple):
    """The inputs of a pass and the gradient of its outputs, which give that of the weight, and their parts within the bases.

    Of a matrix W = U S V^T, G is the sum of `delta` times `x`; it is never formed.
    """

    x: Tensor
    delta: Tensor
    inner: Tensor  # of x, within the basis of the inputs
    outer: Tensor  # of delta, within the basis of the outputs
    core: Tensor  # the gradient that the core's slot has received


class Passes:
    """The passes whose gradients have reached a layer's core, of all that it has shown.

    Attacks within a training ask for gradients of inputs alone, of which no core receives any: such a pass is dropped when the next
    one begins.
    """

    def __init__(self) -> None:
        self.kept: list[Seen] = []
        self._waiting: list[Seen] = []

    def begin(self) -> None:
        """Begin a pass."""
        self._waiting = []

    def show(self, seen: Seen) -> None:
        """Take what the backward pass of one call shows."""
        self._waiting.append(seen)

    def keep(self, *_: Any) -> None:
        """Keep what has been shown: the core receives its gradient."""
        self.kept += self._waiting
        self._waiting = []
