"""What an update adds to a weight is a sum of products of two thin matrices."""

from collections.abc import Iterator

from torch import Tensor

from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import FactoredLayer, MatrixFactors
from robust_lowrank.layers.free import FreeLayer
from robust_lowrank.linalg import Factors


def halves_of(layer: FactoredLayer) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (n, r) and (m, r) whose products with one another's transpose add up to what an update adds, scaled.

    Raises:
        UserError: the update is in Tucker form.
    """
    if isinstance(layer, FreeLayer):
        left, right = layer.left().detach(), layer.right().detach()
        kept = left.any(0) if bool(left.any()) else slice(None)  # triplets that AdaLoRA has zeroed are left out
        yield layer.alpha * left[:, kept], right[:, kept]
        return
    if not isinstance(layer, MatrixFactors):
        raise UserError("an update in Tucker form is no product of two matrices: take a method that keeps the matrix of filters")
    yield _split(layer.used_factors(), layer.alpha)
    if layer.start is not None:
        yield _split(layer.start.factors(), -layer.alpha)


def _split(factors: Factors, scale: float) -> tuple[Tensor, Tensor]:
    core, (u, v) = factors
    return scale * u @ core, v
