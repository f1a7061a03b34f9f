"""Minimal-norm attacks measure distances to the decision boundary."""

from typing import Literal

from torch import Tensor, nn

from robust_lowrank.errors import unknown_name
from robust_lowrank.evaluation.attacks.deepfool import nearest_by_deepfool
from robust_lowrank.evaluation.attacks.fab import nearest_by_fab
from robust_lowrank.evaluation.attacks.hyperplane import ORDERS
from robust_lowrank.evaluation.attacks.nearest import Distances
from robust_lowrank.threat import KeyedNoise


def minimal(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    *,
    noise: KeyedNoise,
    method: Literal["fab", "deepfool"] = "fab",
    **parameters: int,
) -> Distances:
    """Return how near to each input a misclassified one was found: an upper bound of its distance to the boundary.

    `parameters` are those of the method: `steps`, and for FAB `restarts` and `targets`, for DeepFool `candidates`. DeepFool is
    cheap and stops at the first misclassified input; FAB costs some hundred times more and comes nearer.

    Example:
        >>> noise = KeyedNoise(0, "fab", torch.arange(len(x)))
        >>> minimal(model, x, y, "L2", noise=noise, steps=20).distance

    Raises:
        UserError: the norm is not Linf, L2 or L1, or the method is unknown.
    """
    if norm not in ORDERS:
        raise unknown_name("norm", norm, ORDERS)
    if method == "fab":
        return nearest_by_fab(model, x, y, norm, noise=noise, **parameters)
    if method == "deepfool":
        return nearest_by_deepfool(model, x, y, norm, **parameters)
    raise unknown_name("method", method, ("fab", "deepfool"))
