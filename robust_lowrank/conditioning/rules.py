"""Rules bound how calls between modules change distances, each a function of its arguments' constants."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from robust_lowrank.conditioning.constants import GELU, SILU, Unbounded, softplus


class Call(NamedTuple):
    """A call in the graph: its arguments' constants with respect to the network's input, their values, and its result."""

    node: fx.Node
    bounds: dict[fx.Node, float]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any

    def bound(self, position: int = 0) -> float:
        """Return the constant of an argument: 0 if it does not depend on the input."""
        return self._of(self.node.args[position])

    def spread(self, position: int) -> float:
        """Return the constant of an argument after it was repeated to the shape of the result."""
        bound, argument = self.bound(position), self.args[position]
        return bound * math.sqrt(self.value.numel() / argument.numel()) if bound else 0.0

    def parts(self) -> list[float]:
        """Return the constants of a list of tensors, the first argument."""
        nodes = self.node.args[0]
        assert isinstance(nodes, Sequence)
        return [self._of(node) for node in nodes]

    def option(self, position: int, name: str, default: Any = None) -> Any:
        """Return the value of an argument that may be given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def _of(self, node: Any) -> float:
        return self.bounds[node] if isinstance(node, fx.Node) else 0.0


Rule = Callable[[Call], float]


def _times(constant: float) -> Rule:
    return lambda call: constant * call.bound() if constant else 0.0


def _slope(call: Call) -> float:
    return max(1.0, abs(call.option(1, "negative_slope", 0.01))) * call.bound()


def _softplus(call: Call) -> float:
    return softplus(call.option(1, "beta", 1.0), call.option(2, "threshold", 20.0)) * call.bound()


def _pair(call: Call) -> None:
    if len(call.args) != 2:
        raise Unbounded("it is not called with two values by position")


def _sum(call: Call) -> float:
    _pair(call)
    if call.kwargs.get("alpha", 1) != 1:
        raise Unbounded("a sum with a factor alpha")
    return call.spread(0) + call.spread(1)


def _product(call: Call) -> float:
    _pair(call)
    if call.bound(0) and call.bound(1):
        raise Unbounded("a product of two values that both depend on the input")
    varying = 0 if call.bound(0) else 1
    return _magnitude(call.args[1 - varying]) * call.spread(varying)


def _quotient(call: Call) -> float:
    _pair(call)
    if call.kwargs.get("rounding_mode") is not None:
        raise Unbounded("a division that rounds")
    if call.bound(1):
        raise Unbounded("a division by a value that depends on the input")
    return call.spread(0) / _magnitude(call.args[1], least=True)


def _mean(call: Call) -> float:
    shape, dims = call.args[0].shape, call.option(1, "dim")
    chosen = {dim % len(shape) for dim in ((dims,) if isinstance(dims, int) else dims or range(len(shape)))}
    if 0 in chosen:
        raise Unbounded("a mean over the examples")
    return call.bound() / math.sqrt(math.prod(shape[dim] for dim in chosen))


def _join(call: Call) -> float:
    return math.hypot(*call.parts())


def _slice(call: Call) -> float:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if not all(item is None or item is Ellipsis or isinstance(item, int | slice) for item in index):
        raise Unbounded("an index that may take an entry twice")
    return call.bound()


def _attribute(call: Call) -> float:
    if call.args[1] in ("T", "mT"):
        return call.bound()
    if call.args[1] not in ("shape", "dtype", "device", "ndim"):
        raise Unbounded(f"the attribute {call.args[1]!r}")
    return 0.0


def _dropout(call: Call) -> float:
    if call.option(2, "training", True):
        raise Unbounded("dropout that is on in evaluation mode")
    return call.bound()


def _pad(call: Call) -> float:
    if call.option(2, "mode", "constant") != "constant":
        raise Unbounded(f"padding mode {call.option(2, 'mode')!r}")
    return call.bound()


def _magnitude(value: Any, *, least: bool = False) -> float:
    sizes = torch.as_tensor(value, dtype=torch.float64).abs()
    size = float(sizes.min() if least else sizes.max())
    if not math.isfinite(size) or (least and size == 0):
        raise Unbounded("a factor that is not finite, or a division by zero")
    return size


_SAME = _times(1.0)
FUNCTIONS: dict[Any, Rule] = {
    **dict.fromkeys((torch.relu, F.relu, F.relu6, torch.tanh, F.tanh), _SAME),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze), _SAME),
    **dict.fromkeys((torch.sigmoid, F.sigmoid), _times(0.25)),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, operator.sub, operator.isub, torch.sub), _sum),
    **dict.fromkeys((operator.mul, operator.imul, torch.mul), _product),
    **dict.fromkeys((operator.truediv, operator.itruediv, torch.div), _quotient),
    F.leaky_relu: _slope,
    F.gelu: _times(GELU),
    F.silu: _times(SILU),
    F.softplus: _softplus,
    F.dropout: _dropout,
    F.pad: _pad,
    operator.neg: _SAME,
    getattr: _attribute,
    operator.getitem: _slice,
    torch.cat: _join,
    torch.stack: _join,
    torch.mean: _mean,
}
METHODS: dict[str, Rule] = {
    **dict.fromkeys(("relu", "relu_", "tanh"), _SAME),
    **dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze", "contiguous"), _SAME
    ),
    **dict.fromkeys(("size", "dim", "numel"), _times(0.0)),
    "sigmoid": _times(0.25),
    "mean": _mean,
    **dict.fromkeys(("add", "add_", "sub"), _sum),
    **dict.fromkeys(("mul", "mul_"), _product),
    "div": _quotient,
}
POOLING: dict[Any, type[nn.Module]] = {
    F.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
    F.adaptive_max_pool2d: nn.AdaptiveMaxPool2d,
}
