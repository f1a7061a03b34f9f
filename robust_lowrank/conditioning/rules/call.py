"""A call in a network's graph, with what is known of its arguments."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import fx

from robust_lowrank.conditioning.constants import Unbounded

TINY, HUGE = 1e-200, 1e200  # beyond which products of constants leave float64


class Call(NamedTuple):
    """A call in the graph.

    Attributes:
        name: such as `aten.conv2d.default`.
        given: its arguments' values by name, the defaults as well.
        bounds: the constants with respect to the network's input of those arguments that depend on it, by name; of a list of
            tensors one each, None where it does not depend.
        value: its result.
    """

    name: str
    given: dict[str, Any]
    bounds: dict[str, Any]
    value: Any

    def only(self, *names: str) -> None:
        """Require that no other arguments depend on the input."""
        if others := sorted(self.bounds.keys() - set(names)):
            raise Unbounded(f"its argument {others[0]!r} depends on the input")

    def scaled(self, constant: float, name: str) -> float:
        """Return the constant of a map of one argument, the only one that depends on the input."""
        self.only(name)
        return product(constant, self.bounds[name])

    def spread(self, name: str) -> float:
        """Return the constant of an argument after it was repeated to the shape of the result."""
        if name not in self.bounds:
            return 0.0
        return product(math.sqrt(self.value.numel() / self.given[name].numel()), self.bounds[name])


Rule = Callable[[Call], float]


def call_of(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any, bounds: dict[fx.Node, float]) -> Call:
    """Return a call with its arguments by name."""
    schema = node.target._schema  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]
    names = [argument.name for argument in schema.arguments]
    defaults = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    sources = dict(zip(names, node.args, strict=False)) | node.kwargs
    found = {name: _bound(source, bounds) for name, source in sources.items()}
    return Call(
        str(node.target),
        defaults | dict(zip(names, args, strict=False)) | kwargs,
        {name: bound for name, bound in found.items() if bound is not None},
        value,
    )


def product(constant: float, bound: float) -> float:
    """Return the product of two constants, 0 only if one of them is.

    Raises:
        Unbounded: it is too small or too large a number to go on with.
    """
    if math.inf in (constant, bound):
        return math.inf
    if constant == 0 or bound == 0:
        return 0.0
    if not TINY < constant * bound < HUGE:
        raise Unbounded(f"its constant {constant:g}, after {bound:g}, leaves the numbers that float64 can multiply")
    return constant * bound


def _bound(source: Any, bounds: dict[fx.Node, float]) -> Any:
    if isinstance(source, fx.Node):
        return bounds.get(source)
    if isinstance(source, list | tuple):
        parts = [bounds.get(part) if isinstance(part, fx.Node) else None for part in source]
        return parts if any(part is not None for part in parts) else None
    return None


def magnitude(value: Any, *, least: bool = False) -> float:
    """Return the largest size of a number or a tensor's entries, or the least.

    Raises:
        Unbounded: it is not finite, or a least of 0.
    """
    sizes = torch.as_tensor(value).double().abs()
    size = float(sizes.min() if least else sizes.max())
    if not math.isfinite(size) or (least and size == 0):
        raise Unbounded("a factor that is not finite, or a division by zero")
    return size


def listed(values: Any) -> list[int]:
    """Return an option of each direction, or of all, as a list."""
    return list(values) if isinstance(values, list | tuple) else [values]


def along(values: Any, axis: int) -> int:
    """Return an option of one direction, of which there may be one for all.

    Example:
        >>> along([2, 3], 1), along([2], 1)
        (3, 2)
    """
    given = listed(values)
    return given[axis] if len(given) > 1 else given[0]
