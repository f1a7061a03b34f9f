"""Tensors stand in trees: tuples, named tuples, lists and dicts."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def leaves(tree: Any) -> list[Any]:
    """Return what is no container, in order.

    Example:
        >>> leaves({"a": (1, [2, 3]), "b": None})
        [1, 2, 3, None]
    """
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, tuple | list):
        return [tree]
    found = []
    for each in tree:
        if isinstance(each, Tensor):
            found.append(each)
        else:
            found += leaves(each)
    return found


def filled(tree: Any, others: Iterator[Any]) -> Any:
    """Return the same containers with other leaves.

    Example:
        >>> filled({"a": (1, [2, 3])}, iter("xyz"))
        {'a': ('x', ['y', 'z'])}
    """
    if isinstance(tree, dict):
        return {key: filled(value, others) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        parts: Iterable[Any] = [filled(each, others) for each in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return next(others)
