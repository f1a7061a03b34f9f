"""Minimal-norm attacks measure distances to the decision boundary."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from robust_lowrank.errors import unknown_name
from robust_lowrank.evaluation.attacks.carlini_wagner import nearest_by_cw
from robust_lowrank.evaluation.attacks.ddn import nearest_by_ddn, need_l2
from robust_lowrank.evaluation.attacks.deepfool import nearest_by_deepfool
from robust_lowrank.evaluation.attacks.fab import nearest_by_fab
from robust_lowrank.evaluation.attacks.fmn import nearest_by_fmn
from robust_lowrank.evaluation.attacks.hopskipjump import nearest_by_hopskipjump
from robust_lowrank.evaluation.attacks.hyperplane import ORDERS
from robust_lowrank.evaluation.attacks.nearest import Distances
from robust_lowrank.threat import KeyedNoise

IN_L2: dict[str, Callable[..., Distances]] = {"ddn": nearest_by_ddn, "cw": nearest_by_cw}
WITH_NOISE: dict[str, Callable[..., Distances]] = {"fab": nearest_by_fab, "hopskipjump": nearest_by_hopskipjump}
WITHOUT: dict[str, Callable[..., Distances]] = {"deepfool": nearest_by_deepfool, "fmn": nearest_by_fmn}


def minimal(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    *,
    noise: KeyedNoise,
    method: Literal["fab", "fmn", "deepfool", "ddn", "cw", "hopskipjump"] = "fab",
    **parameters: int | float,
) -> Distances:
    """Return how near to each input a misclassified one was found: an upper bound of its distance to the boundary.

    DeepFool is cheap and stops at the first misclassified input; FMN, and in L2 DDN and C&W, come nearer by a hundred steps; FAB
    costs several times more. HopSkipJump sees classes alone. `parameters` are those of the method, such as `steps`.

    Example:
        >>> noise = KeyedNoise(0, "fab", torch.arange(len(x)))
        >>> minimal(model, x, y, "L2", noise=noise, steps=20).distance

    Raises:
        UserError: the norm is not Linf, L2 or L1 or not one of the method's, or the method is unknown.
    """
    if norm not in ORDERS:
        raise unknown_name("norm", norm, ORDERS)
    if method in IN_L2:
        need_l2("C&W" if method == "cw" else "DDN", norm)
        return IN_L2[method](model, x, y, **parameters)
    if method in WITH_NOISE:
        return WITH_NOISE[method](model, x, y, norm, noise=noise, **parameters)
    if method in WITHOUT:
        return WITHOUT[method](model, x, y, norm, **parameters)
    raise unknown_name("method", method, (*IN_L2, *WITH_NOISE, *WITHOUT))
