"""A view is the shape in which an attack on images sees an input."""

import math

View = tuple[int, int, int]  # channels, height, width


def image_view(shape: tuple[int, ...]) -> View:
    """Return the shape of an image or of a channel as it is, else the most square one of a channel.

    Example:
        >>> image_view((14, 56)), image_view((64,))
        ((1, 14, 56), (1, 8, 8))
    """
    return _candidates(shape)[0]


def square_view(shape: tuple[int, ...], norm: str) -> View | None:
    """Return the first shape of an input that upstream's Square takes, None if there is none: for L2 and L1 it tiles the image.

    Example:
        >>> square_view((1, 12, 12), "Linf"), square_view((1, 12, 12), "L2"), square_view((7,), "L2")
        ((1, 12, 12), (1, 9, 16), None)
    """
    return next((view for view in _candidates(shape) if norm == "Linf" or square_tiles(*view[1:])), None)


def square_tiles(height: int, width: int) -> bool:
    """Say whether Square's first tiling fits: it lays height // side tiles from an offset, cutting none unless of side 1."""
    side = height // 5
    offset = (height - 5 * side) // 2
    return side > 0 and (side == 1 or all(offset + (length // side) * side <= length for length in (height, width)))


def _candidates(shape: tuple[int, ...]) -> list[View]:
    features = math.prod(shape)
    heights = (height for height in range(math.isqrt(features), 0, -1) if features % height == 0)
    images: list[View] = [(shape[0] if len(shape) == 3 else 1, shape[-2], shape[-1])] if len(shape) in (2, 3) else []
    return images + [(1, height, features // height) for height in heights]
