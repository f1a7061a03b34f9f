"""Certificates prove from margins how far an input may move in L2 before the prediction can change."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robust_lowrank.conditioning.copies import wide_copy
from robust_lowrank.conditioning.lipschitz import Lipschitz, lipschitz
from robust_lowrank.errors import UserError
from robust_lowrank.records import CERTIFICATE, CURVE
from robust_lowrank.statistics import clopper_pearson

if TYPE_CHECKING:
    import pandas as pd

BATCH = 256
ROUNDING = 1e-9  # of both logits and the median one, taken off every margin: far beyond what float64 loses on the way to the logits


@torch.no_grad()
def certify(model: nn.Module, x: Tensor, y: Tensor, *, bound: Lipschitz | None = None, batch_size: int = BATCH) -> "pd.DataFrame":
    """Return for each example a radius within which no input of another class lies, a row an example.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> certify(network, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])).columns.tolist()
        ['example', 'label', 'prediction', 'margin', 'radius', 'abstained']

    With z the logits and L_yj a bound of how fast the difference of two of them changes,

        radius = min over j != y of (z_y - z_j) / L_yj

    L_yj is |w_y - w_j| times the bound of what goes into the last linear layer, with w_j its rows, and less where linear layers
    before it are bounded together with it (`lipschitz`); sqrt(2) L where the logits come out of something else. The radius is 0
    for an example that the network gets wrong, and for all if there is no bound. Logits are computed in float64, and 1e-9 of them
    is taken off.

    Args:
        model: the network, which stays as it is; it is seen in evaluation mode.
        x: (N, ...) inputs; distances are in their units.
        y: (N,) labels.
        bound: what `lipschitz` returned for this network; computed if it is not given.
        batch_size: examples at a time.

    Raises:
        UserError: a logit is not finite, or labels and inputs do not fit.

    Source: Tsuzuku, Sato, Sugiyama 2018, arXiv 1802.04034, proposition 1 and its tighter form for the last layer.
    """
    import pandas as pd

    if y.shape != x.shape[:1]:
        raise UserError(f"certificates need a label an example, not {tuple(y.shape)} for {len(x)} examples")
    if y.is_floating_point() or y.is_complex():
        raise UserError(f"labels are numbers of classes, not {y.dtype}")
    bound = lipschitz(model, x.shape[1:]) if bound is None else bound
    wide = wide_copy(model)
    device = next(wide.parameters(), x).device
    logits, labels = torch.cat([_answers(wide, part.to(device).double()).cpu() for part in x.split(batch_size)]), y.cpu().long()
    if not torch.isfinite(logits).all():
        raise UserError("the network returns logits that are not finite: it has no certificate")
    classes = logits.shape[1]
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(f"labels from {int(labels.min())} to {int(labels.max())} do not fit a network of {classes} classes")
    if bound.steepness is not None and len(bound.steepness) != classes:
        raise UserError(f"the bound is of a network of {len(bound.steepness)} classes, not of {classes}: compute it for this one")
    gaps = logits.gather(1, labels[:, None]) - logits
    sizes = logits.abs()
    rounding = sizes + sizes.gather(1, labels[:, None]) + sizes.median(dim=1, keepdim=True).values
    sure = (gaps - ROUNDING * rounding).clamp(min=0)
    distances = (sure / _steepness(bound, classes)[labels]).nan_to_num(nan=0.0, posinf=math.inf)
    others = torch.arange(classes) != labels[:, None]
    radii = torch.where(others, distances, math.inf).amin(dim=1)
    margin = torch.where(others, gaps, math.inf).amin(dim=1)
    columns = (range(len(y)), labels.tolist(), logits.argmax(dim=1).tolist(), margin.tolist(), radii.tolist(), [False] * len(y))
    return pd.DataFrame(dict(zip(CERTIFICATE, columns, strict=True)))


def certified_curve(table: "pd.DataFrame", radii: Sequence[float], *, confidence: float = 0.95) -> "pd.DataFrame":
    """Return the share of examples that are right and stay so within each radius, with its Clopper–Pearson interval.

    Example:
        >>> certified_curve(pd.DataFrame({"radius": [0.0, 0.3, 1.2], "abstained": False, ...}), [0, 0.5])  # doctest: +SKIP

    At radius 0 it counts the examples that are right (of smoothing: right and sure).

    Args:
        table: what `certify` or `smooth_certify` returned.
        radii: from 0.
        confidence: of the intervals.

    Raises:
        UserError: a radius is negative, or there is no example.
    """
    import pandas as pd

    if any(not radius >= 0 for radius in radii):
        raise UserError(f"radii are numbers from 0, not {list(radii)}")
    right = (table["prediction"] == table["label"]) & ~table["abstained"]
    rows = []
    for radius in radii:
        certified = int((right & (table["radius"] >= radius)).sum())
        rows.append((float(radius), certified, len(table), *clopper_pearson(certified, len(table), confidence)))
    return pd.DataFrame(rows, columns=pd.Index(CURVE))


def _answers(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of a batch, one by one from a network that takes no more.

    Raises:
        UserError: they are not (N, classes).
    """
    try:
        logits = model(x)
    except Exception:
        if len(x) == 1:
            raise
        return torch.cat([_answers(model, row) for row in x.split(1)])
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(x) or not logits.is_floating_point():
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the network returns {shape} for {len(x)} inputs, where logits ({len(x)}, classes) are due")
    return logits


def _steepness(bound: Lipschitz, classes: int) -> Tensor:
    """Return how fast the difference of two logits can change, (classes, classes)."""
    if bound.steepness is None:
        return torch.full((classes, classes), math.sqrt(2) * bound.bound, dtype=torch.float64)
    return bound.steepness.cpu() * (1 + ROUNDING)
