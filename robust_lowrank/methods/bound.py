"""The condition number is bounded by a clamp, and directions leave a weight and join it."""

from torch import Tensor

from robust_lowrank import linalg

SUNK, RISEN = 0.5, 0.75  # of the least value that `cond` allows a weight: the sizes at which a direction leaves it and joins it


def clamp_core(core: Tensor, tau: float, reference: linalg.Reference) -> Tensor:
    """Return the core with the singular values of its first unfolding, which are the weight matrix's, clamped."""
    return linalg.clamp_spectrum(linalg.unfold(core, 0), tau, reference).reshape(core.shape)


def used_under_bound(sigma: Tensor, rows: Tensor, cond: float, *, minimum: int) -> int:
    """Return how many of its directions a weight with a bounded condition number has.

    A weight has singular values between two bounds, and zeros. A direction that training has pressed down against the clamp, so
    that for the optimizer it is nearer to zero than to the lower bound, leaves; one of which the weight has nothing joins it when
    it has come nearer to the bound than where others leave.

    Args:
        sigma: the singular values of what the optimizer has.
        rows: the weight's core in these directions, one a row.
    """
    new = missing_directions(rows, cond)
    used = int((sigma > 0).sum())
    while used > minimum:
        there = rows[:used][~new[:used]]  # what would join has no part in the bound that it has to come near to
        values = linalg.svd(there).sigma if len(there) else sigma[:used]
        least = float(linalg.clamp_values(values[values > 0], cond - 1, "exact")[0]) / cond
        if float(sigma[used - 1]) >= (RISEN if bool(new[used - 1]) else SUNK) * least:
            break
        used -= 1
    return used


def missing_directions(rows: Tensor, cond: float) -> Tensor:
    """Return for each row whether a weight with a bounded condition number has nothing in its direction but what one step gave."""
    norms = linalg.in_float64(rows).norm(dim=1).to(rows)
    return norms <= SUNK * norms.max() / cond
