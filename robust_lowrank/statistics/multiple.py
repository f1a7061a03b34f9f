"""Holm's correction of many tests."""

from collections.abc import Sequence

import numpy as np

from robust_lowrank.errors import UserError


def holm(p_values: Sequence[float] | np.ndarray) -> list[float]:
    """Return the p-values adjusted for looking at all of them (Holm's step-down procedure), in the order given.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Raises:
        UserError: a value is not a probability.

    Source: Holm 1979, through statsmodels.
    """
    values = np.asarray(p_values, dtype=float)
    if not np.all((values >= 0) & (values <= 1)):
        raise UserError(f"p-values lie between 0 and 1, not {list(p_values)}")
    if values.size == 0:
        return []
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(values, method="holm")[1], dtype=float).tolist()
