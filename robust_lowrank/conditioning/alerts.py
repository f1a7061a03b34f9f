"""Alerts tell once a layer and quantity that conditioning has left its limits."""

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.records import MONITOR

LIMITS = {"cond": 1e4, "orthonormality": 1e-4}
QUANTITIES = tuple(name for name in MONITOR if name not in ("step", "layer", "kind", "factored", "singular_values"))
REMEDIES = {
    "cond": "bound it with cond= (CondLR, or any rank-adaptive method), raise tol, or lower the learning rate",
    "orthonormality": "keep factors in float32, or take retraction='polar'",
    "distance": "something moves the weights after the method's step: decay, clipping or another optimizer",
    "sigma_max": "lower the learning rate",
}
DIVERGED = "training has diverged: go back to an earlier checkpoint, and lower the learning rate"


class Alert(NamedTuple):
    """A quantity of a layer that is above its limit, or not a number."""

    layer: str
    quantity: str
    value: float
    limit: float
    step: int

    def __str__(self) -> str:
        what = f"step {self.step}: {self.quantity} of layer {self.layer!r} is"
        if math.isnan(self.value):
            return f"{what} not a number: {DIVERGED}"
        remedy = f": {REMEDIES[self.quantity]}" if self.quantity in REMEDIES else ""
        return f"{what} {self.value:.3g}, above {self.limit:.3g}{remedy}"


def log(alert: Alert) -> None:
    """Log an alert as a warning of the logger `robust_lowrank`."""
    logging.getLogger("robust_lowrank").warning("%s", alert)


class Watch:
    """Turns rows of `records.MONITOR` into alerts.

    Example:
        >>> watch = Watch({"cond": 100})
        >>> row = {"layer": "fc1", "cond": 500.0, "sigma_max": 1.0, "step": 20}
        >>> [len(watch([row])), len(watch([row])), len(watch([row | {"cond": 2.0}])), len(watch([row]))]
        [1, 0, 0, 1]

    Attributes:
        beyond: layers and quantities that were above their limit when last seen.

    Raises:
        UserError: a limit is not on a quantity of the monitor, or not a number.
    """

    def __init__(self, limits: Mapping[str, float]) -> None:
        for quantity, limit in limits.items():
            if quantity not in QUANTITIES:
                raise unknown_name("quantity", quantity, QUANTITIES)
            if not isinstance(limit, int | float) or math.isnan(limit):
                raise UserError(f"the limit of {quantity} is not a number: give the value above which to warn")
        self.limits: dict[str, float] = dict(limits)
        self.beyond: set[tuple[str, str]] = set()

    def __call__(self, rows: Iterable[Mapping[str, Any]]) -> list[Alert]:
        """Return the alerts that are new with these rows."""
        new = []
        for row in rows:
            for quantity, limit in self.limits.items():
                key, value = (row["layer"], quantity), row[quantity]
                if not (value > limit or (math.isnan(value) and math.isnan(row["sigma_max"]))):
                    self.beyond.discard(key)
                elif key not in self.beyond:
                    self.beyond.add(key)
                    new.append(Alert(*key, value, limit, row["step"]))
        return new
