"""A network's Lipschitz bound is composed along its graph from the norms of its layers."""

import math
import operator
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from robust_lowrank.conditioning import tracing
from robust_lowrank.conditioning.chains import Chain, distances, steepness
from robust_lowrank.conditioning.constants import Unbounded
from robust_lowrank.conditioning.operators.convolution import Convolution, LinearLayer, convolution
from robust_lowrank.conditioning.operators.symbol import SLACK, conv_bound
from robust_lowrank.conditioning.operators.table import dims_of, size_of
from robust_lowrank.conditioning.rules import EXACT_TYPES, LINEAR, NORMALISATION, RULES, SHAPE_ONLY, VALUES_AND_INDICES
from robust_lowrank.conditioning.rules.call import Call, call_of, product
from robust_lowrank.conditioning.rules.linear import image_size, linear_map, scale_of
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.layers import Adapter, ChainLayer

if TYPE_CHECKING:
    import pandas as pd

LAYERS = ("layer", "operation", "constant", "bound", "note")
ASSUMPTIONS = (
    "L2 distances of inputs, as the network takes them (images in [0, 1])",
    "evaluation mode: dropout is off, batch normalisation uses its running statistics",
    "the same input always gives the same logits, whatever else is in its batch",
    "exact arithmetic with the stored weights: norms are computed in float64 and raised by 1e-9 of themselves",
)


BENDING = frozenset(  # functions of single entries, with slopes in [0, 1]
    f"aten.{name}.default" for name in ("relu", "relu6", "hardtanh", "tanh", "clamp", "clamp_min", "clamp_max")
)
LEAKY = "aten.leaky_relu.default"
UNCHANGED = frozenset(f"aten.{name}.default" for name in ("detach", "clone", "alias", "contiguous", "dropout"))
MOVING = frozenset(("aten.view.default", "aten.reshape.default", "aten.flatten.using_ints"))  # nothing, where the shape stays

_ONE_AT_A_TIME = threading.Lock()  # torch.export traces one network at a time


@dataclass(frozen=True)
class Lipschitz:
    """A Lipschitz bound of a network's logits with respect to its inputs, in L2.

    Attributes:
        bound: of all logits together; infinite if there is none.
        layers: a row a call whose constant is not 1, LAYERS: its own constant, and the bound from the input up to it.
        reasons: why there is no bound.
        assumptions: on which the bound rests.
        steepness: how fast the difference of two logits can change, (classes, classes) float64, where they come out of a linear
            layer; None: sqrt(2) times the bound.
    """

    bound: float
    layers: "pd.DataFrame"
    reasons: tuple[str, ...]
    assumptions: tuple[str, ...] = ASSUMPTIONS
    steepness: Tensor | None = None

    @property
    def certified(self) -> bool:
        """True if bounded."""
        return math.isfinite(self.bound)


@torch.no_grad()
def lipschitz(model: nn.Module, input_shape: Sequence[int]) -> Lipschitz:
    """Return a bound L with |model(x) - model(x')| <= L |x - x'| for all inputs, in L2, or the reasons why there is none.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> lipschitz(network, (1, 2, 2)).layers["layer"].tolist()
        ['1', '3']

    The network is traced with `torch.export`, and bounds are composed along the graph: they multiply along a path, add where
    branches are added, and join as sqrt(a^2 + b^2) where they are concatenated. Linear layers count with `conv_bound`, batch
    normalisation folded into the one before it. Attention, layer normalisation and whatever is not known have no bound, and so has
    a network that contains them. A module of one's own may state its constant by a method `lipschitz_constant()`.

    Graph and network must agree on random inputs, and the network with itself: whether gradients are computed or not, when it is
    asked again, in its own precision and in float64, alone and in a batch. It has no bound otherwise.

    It is a bound, often far above the true constant: no layer is likely to stretch just what the one before it stretched most.
    Linear layers at the end of a network, with functions of slopes in [0, 1] between them, are therefore bounded together
    (`chains.steepness`).

    Args:
        model: the network, which stays as it is.
        input_shape: of one input, such as (channels, height, width).

    Raises:
        UserError: `input_shape` is no shape.

    Source: the product of norms: Szegedy et al. 2014 (arXiv 1312.6199), section 4.3.
    """
    import pandas as pd

    try:
        shape = tuple(map(int, input_shape))
        if not all(size >= 0 for size in shape):
            raise ValueError(shape)
    except (TypeError, ValueError) as error:
        raise UserError(f"input_shape {input_shape!r} is no shape of an input: give one such as (3, 32, 32)") from error
    with _ONE_AT_A_TIME:
        try:
            return _bounded(model, shape)
        except Unbounded as reason:
            return Lipschitz(math.inf, pd.DataFrame(columns=pd.Index(LAYERS)), (str(reason),))


def _bounded(model: nn.Module, shape: tuple[int, ...]) -> Lipschitz:
    import pandas as pd

    traced = tracing.Traced(model, shape)
    walk = _Walk(traced)
    walk.run(torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    frame = pd.DataFrame(walk.rows, columns=pd.Index(LAYERS))
    if walk.reasons:
        return Lipschitz(math.inf, frame, tuple(dict.fromkeys(walk.reasons)))
    if not math.isfinite(walk.bound):
        raise Unbounded("its bound is too large a number")
    traced.compare()
    return Lipschitz(walk.bound * (1 + SLACK), frame, (), steepness=walk.steepness())


class _Walk(fx.Interpreter):
    """Runs a graph on one input, and keeps the bounds of what depends on it, from the input up to each call."""

    def __init__(self, traced: tracing.Traced) -> None:
        super().__init__(traced.module)
        self.rows: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self.bound = math.inf
        self._needed = tracing.dependencies(traced.module.graph)
        self._bounds: dict[fx.Node, float] = {}
        self._chains: dict[fx.Node, Chain] = {}  # of what comes out of linear layers
        self._last: Chain | None = None
        self._folded: dict[
            fx.Node, tuple[LinearLayer | Convolution, tuple[int, int], float]
        ] = {}  # linear maps that wait for a normalisation

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        if n in self._needed:
            try:
                bound = self._bound(n, args, kwargs, value)
            except Exception as error:  # whatever a rule stumbles over has no bound
                bound, reason = math.inf, first_line(error)
                self.reasons.append(f"{tracing.place(n)[0]}: {reason}")
                self._enter(n, math.inf, math.inf, note=reason)
            if bound is not None:
                self._bounds[n] = bound
        return value

    def _bound(self, n: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> float | None:
        """Return the bound of a call from the input up to it; None if it does not depend on the input."""
        if n.op == "placeholder":
            return 1.0
        if n.op == "output":
            self._finish(args[0], n.args[0])
            return None
        before = [self._bounds[node] for node in n.all_input_nodes if node in self._bounds]
        if not before or str(n.target) in SHAPE_ONLY:
            return None
        if isinstance(value, Tensor) and value.dtype not in EXACT_TYPES:
            raise Unbounded(f"it gives {str(value.dtype).removeprefix('torch.')}, to which numbers are rounded")
        if n.target is operator.getitem:
            return self._entry(n, before[0])
        if n.op == "call_module":
            return self._whole(n, self.fetch_attr(str(n.target)), args[0], value, before[0])
        if (rule := RULES.get(str(n.target))) is None:
            raise Unbounded(f"{tracing.place(n)[1]} has no Lipschitz constant here")
        call = call_of(n, args, kwargs, value, self._bounds)
        if call.name in NORMALISATION and n.args[0] in self._folded:
            return self._normalise(n, call)
        if call.name in LINEAR and self._is_normalised(n, value.dim() == call.given["weight"].dim()):
            self._lengthen(n, call)
            self._folded[n] = linear_map(call), image_size(call), before[0]
            return before[0]  # they count together, at the normalisation
        bound = rule(call)
        self._lengthen(n, call)
        if len(before) > 1 or bound != before[0]:
            self._enter(n, bound / max(before) if 0 < max(before) < math.inf else math.inf, bound)
        return bound

    def _entry(self, n: fx.Node, before: float) -> float:
        source, index = n.args
        assert isinstance(source, fx.Node)
        if str(source.target) in VALUES_AND_INDICES and index != 0:
            raise Unbounded("it takes indices, which jump")
        if source in self._chains and index == 0:  # batch normalisation gives its statistics beside its result
            self._chains[n] = self._chains[source]
        return before

    def _whole(self, n: fx.Node, layer: nn.Module, x: Tensor, value: Tensor, before: float) -> float:
        if not tracing.is_known(layer):
            constant = float(layer.lipschitz_constant())  # pyright: ignore[reportCallIssue]
            if not 0 <= constant < math.inf:
                raise Unbounded(f"it states {constant} as its constant")
            return self._times(n, constant, before)
        if not tracing.is_its_factors(layer, x):
            raise Unbounded(
                "its forward is not what its factors, or its merged weight, make: idle columns or geometry were changed"
            )
        size = size_of(layer, x.shape)
        if dims_of(layer) == 2:
            self._append(n, _weight(layer), value)
        if self._is_normalised(n, value.dim() == dims_of(layer)):
            self._folded[n] = layer, size, before
            return before
        return self._times(n, conv_bound(layer, size), before)

    def _is_normalised(self, n: fx.Node, scales_channels: bool) -> bool:
        """Return whether batch normalisation alone uses the output of a linear layer, and scales its channels.

        Of (N, L, C), that a linear layer gives, it scales the positions.
        """
        (user, *others) = n.users
        return not others and str(user.target) in NORMALISATION and user.args[0] is n and scales_channels

    def _normalise(self, n: fx.Node, call: Call) -> float:
        source = n.args[0]
        assert isinstance(source, fx.Node)
        conv, size, before = self._folded[source]
        if (chain := self._chains.get(source)) is not None:
            self._chains[n] = chain.scaled(scale_of(call))
        norm = conv_bound(convolution(conv, scale=scale_of(call)), size)
        return self._times(n, norm, before, note=f"{tracing.place(source)[0]} folded in")

    def _finish(self, logits: Any, source: Any) -> None:
        if isinstance(logits, tuple | list) and len(logits) == 1:
            (logits,), (source,) = logits, source
        if not isinstance(logits, Tensor) or not isinstance(source, fx.Node):
            raise Unbounded("it returns something else than one tensor")
        self.bound = self._bounds.get(source, 0.0)
        self._last = self._chains.get(source)

    def _append(self, n: fx.Node, weight: Tensor, value: Tensor) -> None:
        """Go on with the chain of a linear layer's input (N, m), or begin one."""
        if value.dim() != 2:
            return
        source, matrix = n.all_input_nodes[0], weight.detach().double()
        bound, chain = self._bounds[source], self._chains.get(source)
        self._chains[n] = Chain(bound, (matrix,), bound) if chain is None else chain.then(matrix, bound)

    def _lengthen(self, n: fx.Node, call: Call) -> None:
        """Go on with a chain over a linear layer, or over a call that changes single entries and no other."""
        if call.name == "aten.linear.default":
            self._append(n, call.given["weight"], call.value)
            return
        before = self._chains.get(n.args[0]) if n.args and isinstance(n.args[0], fx.Node) else None
        if before is None or not isinstance(call.value, Tensor) or len(call.bounds) > 1:
            return
        if call.name in UNCHANGED or (call.name in MOVING and call.value.shape == call.given["self"].shape):
            self._chains[n] = before
        elif call.name in BENDING or (call.name == LEAKY and 0 <= call.given["negative_slope"] <= 1):
            self._chains[n] = before.bend()

    def steepness(self) -> Tensor | None:
        """Return how fast the difference of two logits can change, if they come out of a linear layer.

        What is lost where matrices cancel is small beside the product of their norms, not beside what is left: so much is added,
        but between outputs with the same row, which nothing tells apart.
        """
        chain = self._last
        if chain is None or chain.bent:
            return None
        last = chain.weights[-1]
        _, kinds = torch.unique(last, dim=0, return_inverse=True)
        same, found = (kinds[:, None] == kinds) & (not chain.rounded), chain.before * distances(last)
        with suppress(RuntimeError):  # LinAlgError: a matrix is too close to zero
            found = torch.minimum(found, steepness(chain))
        return (found * (1 + SLACK) + SLACK * self.bound).masked_fill(same, 0.0).fill_diagonal_(0.0)

    def _times(self, n: fx.Node, constant: float, before: float, *, note: str = "") -> float:
        bound = product(constant, before)
        if constant != 1:
            self._enter(n, constant, bound, note=note)
        return bound

    def _enter(self, n: fx.Node, constant: float, bound: float, *, note: str = "") -> None:
        name, operation = tracing.place(n)
        operation = operation or type(self.fetch_attr(str(n.target))).__name__
        self.rows.append({"layer": name, "operation": operation, "constant": constant, "bound": bound, "note": note})


def _weight(layer: nn.Module) -> Tensor:
    plain = layer.dense_layer() if isinstance(layer, Adapter) else layer
    return plain.dense_weight() if isinstance(plain, ChainLayer) else plain.get_parameter("weight")
