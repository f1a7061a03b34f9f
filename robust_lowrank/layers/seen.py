"""What one pass shows of a layer's gradient: enough to project it on bases that are not known yet."""

from typing import NamedTuple

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


Passes = list[Seen] | None  # None: nobody asks
