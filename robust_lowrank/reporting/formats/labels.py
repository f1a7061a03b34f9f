"""Labels stand beside their points, where they cover neither one another nor other points."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

LETTER, HEIGHT, GAP = 6.4, 15.0, 11.0  # of a label, in pixels, and its distance from its point
RADIUS = 9.0  # of a point with what surrounds it
CROSSED = 1000.0  # pixels that a label may rather cover than stand above that of a higher point beside its own
BESIDE = 40.0  # pixels from left to right, within which points are taken for one column


Box = tuple[float, float, float, float]  # left, top, right, bottom


class Place(NamedTuple):
    """Where a label begins or ends, in pixels from its point, downwards."""

    align: str  # "left", "right" or "center": the side of the text that lies at `dx`
    dx: float
    dy: float


PLACES = (
    Place("left", GAP, 0),
    Place("right", -GAP, 0),
    Place("center", 0, -1.5 * GAP),
    Place("center", 0, 1.5 * GAP),
    *(Place(align, dx, dy) for (align, dx), dy in product((("left", GAP), ("right", -GAP)), (-GAP, GAP, -1.8 * GAP, 1.8 * GAP))),
)


def place_labels(points: Sequence[tuple[float, float]], texts: Sequence[str], width: float, drawn: Sequence[Box]) -> list[Place]:
    """Return a place for the label of each point, chosen one after the other so that as little as possible is covered.

    Args:
        points: x from the left and y from above, in pixels.
        width: of the drawing, beyond which no label should reach.
        drawn: what else is there, as (left, top, right, bottom).

    Example:
        >>> place_labels([(50, 50), (70, 50)], ["a", "b"], 300, [])
        [Place(align='right', dx=-11.0, dy=0), Place(align='left', dx=11.0, dy=0)]
    """
    taken = [(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points]
    taken += drawn
    chosen = []
    for own, (point, text) in enumerate(zip(points, texts, strict=True)):
        boxes = {place: _box(point, text, place) for place in PLACES}
        others = [box for index, box in enumerate(taken) if index != own]
        placed = list(zip(points, taken[len(points) + len(drawn) :], strict=False))
        costs = {
            place: sum(_overlap(box, other) for other in others) + _outside(box, width) + _crossed(point, box, placed)
            for place, box in boxes.items()
        }
        best = min(PLACES, key=lambda place: costs[place])
        chosen.append(best)
        taken.append(boxes[best])
    return chosen


def _box(point: tuple[float, float], text: str, place: Place) -> Box:
    width = LETTER * len(text)
    left = point[0] + place.dx - {"left": 0.0, "center": width / 2, "right": width}[place.align]
    top = point[1] + place.dy - HEIGHT / 2
    return left, top, left + width, top + HEIGHT


def _overlap(one: Box, other: Box) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def _crossed(point: tuple[float, float], box: Box, placed: Sequence[tuple[tuple[float, float], Box]]) -> float:
    """Return the cost of labels that stand in another order than the points of their column: each would be read as the other's."""
    column = [(y, other) for (x, y), other in placed if abs(x - point[0]) < BESIDE]
    return CROSSED * sum((point[1] - y) * (box[1] - other[1]) < 0 for y, other in column)


def _outside(box: Box, width: float) -> float:
    return HEIGHT * (max(-box[0], 0.0) + max(box[2] - width, 0.0))
