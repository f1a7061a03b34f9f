"""Two behaviours are compared within rounding: the same network answers the same on another machine, but for the last bits."""

import math
from collections.abc import Mapping

TOLERANCE = 1e-3  # of the largest number of a kind


def unlike(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Return in words where two networks' answers to keyed inputs differ by more than rounding; nothing where they do not.

    Both are as `threat.observe` returns them. Of a kind that one has more inputs of, the common ones count. One that was not
    recorded is unlike none.

    Example:
        >>> unlike({"clean": "1 2"}, {"clean": "1 2.5"})
        'on clean inputs by 20 %'
    """
    for kind in one.keys() & other.keys():
        pairs = list(zip(_numbers(one[kind]), _numbers(other[kind]), strict=False))
        size = max((abs(number) for pair in pairs for number in pair if math.isfinite(number)), default=0.0)
        gap = max((_gap(*pair) for pair in pairs), default=0.0)
        if gap > TOLERANCE * size:
            return f"on {kind} inputs by {100 * gap / size if size else math.inf:.3g} %"
    return ""


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def _gap(one: float, other: float) -> float:
    """Return how far two numbers are apart; what is not finite agrees with what is not finite either."""
    if not math.isfinite(one) or not math.isfinite(other):
        return 0.0 if math.isfinite(one) == math.isfinite(other) else math.inf
    return abs(one - other)
