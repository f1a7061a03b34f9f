"""A network's Lipschitz bound is composed along its graph from the norms of its layers."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from robust_lowrank.conditioning.constants import ACTIVATIONS, POOLS, POOLS_1D, pool_constant
from robust_lowrank.conditioning.graph import dependencies, has_hooks, reason_to_distrust, trace
from robust_lowrank.conditioning.operators.convolution import convolution, is_linear
from robust_lowrank.conditioning.operators.symbol import SLACK, conv_bound
from robust_lowrank.conditioning.operators.table import dims_of, is_batch_norm, scale_of, size_of
from robust_lowrank.conditioning.rules import FUNCTIONS, METHODS, POOLING, Call, Unbounded
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.layers import Adapter, FactoredLayer

if TYPE_CHECKING:
    import pandas as pd

LAYERS = ("layer", "operation", "constant", "bound", "note")
ASSUMPTIONS = (
    "L2 distances of inputs, as the network takes them (images in [0, 1])",
    "evaluation mode: dropout is off, batch normalisation uses its running statistics",
    "the same input always gives the same logits, whatever else is in its batch",
    "exact arithmetic with the stored weights: norms are computed in float64 and raised by 1e-9 of themselves",
)
ISOMETRIES = (nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.ZeroPad2d, nn.ConstantPad2d)


@dataclass(frozen=True)
class Lipschitz:
    """A Lipschitz bound of a network's logits with respect to its inputs, in L2.

    Attributes:
        bound: of all logits together; infinite if there is none.
        layers: a row a call whose constant is not 1, LAYERS: its own constant, and the bound from the input up to it.
        reasons: why there is no bound.
        assumptions: on which the bound rests.
        features: the bound of what goes into the last linear layer, if the logits come out of one.
        head: the weight of that layer, (classes, features) float64.
    """

    bound: float
    layers: "pd.DataFrame"
    reasons: tuple[str, ...]
    assumptions: tuple[str, ...] = ASSUMPTIONS
    features: float = math.inf
    head: Tensor | None = None

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

    The network is traced with `torch.fx`, and bounds are composed along the graph: they multiply along a path, add where branches
    are added, and join as sqrt(a^2 + b^2) where they are concatenated. Linear layers count with `conv_bound`, batch normalisation
    folded into the one before it. Attention, layer normalisation and whatever is not known have no bound, and so has a network that
    contains them. A module of one's own may state its constant by a method `lipschitz_constant()`.

    It is a bound, often far above the true constant: no layer is likely to stretch just what the one before it stretched most.

    Args:
        model: the network, which stays as it is.
        input_shape: of one input, such as (channels, height, width).

    Source: the product of norms: Szegedy et al. 2014 (arXiv 1312.6199), section 4.3.
    """
    import pandas as pd

    def failed(reason: str) -> Lipschitz:
        return Lipschitz(math.inf, pd.DataFrame(columns=pd.Index(LAYERS)), (reason,))

    try:
        wide = copy.deepcopy(model).double().cpu().eval()
        state = [*wide.parameters(), *wide.buffers()]
        before = [tensor._version for tensor in state]
        graph = trace(wide)
    except Exception as error:  # the network's own, when it is given a symbol
        return failed(f"its forward cannot be traced: {first_line(error)}")
    if reason := reason_to_distrust(wide, graph.graph):
        return failed(reason)
    walk = _Walk(graph)
    try:
        logits = walk.run(torch.zeros(1, *input_shape, dtype=torch.float64))
    except Exception as error:  # the network's own, on an input of this shape
        return failed(f"its traced forward fails on an input of shape {(1, *input_shape)}: {first_line(error)}")
    if [tensor._version for tensor in state] != before:
        return failed("its forward changes its own parameters or buffers")
    if not isinstance(logits, Tensor):
        return failed("it returns something else than one tensor")
    frame = pd.DataFrame(walk.rows, columns=pd.Index(LAYERS))
    if walk.reasons:
        return Lipschitz(math.inf, frame, tuple(dict.fromkeys(walk.reasons)))
    return Lipschitz(walk.bound * (1 + SLACK), frame, (), features=walk.features * (1 + SLACK), head=walk.head)


class _Walk(fx.Interpreter):
    """Runs a network on one input, and keeps for every call the bound from the input up to it: 0 where it does not depend on it."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.rows: list[dict[str, Any]] = []
        self.reasons: list[str] = []
        self.bound = self.features = math.inf
        self.head: Tensor | None = None
        self._first = next(iter(module.graph.nodes))
        self._needed = dependencies(module.graph)
        self._bounds: dict[fx.Node, float] = {}
        self._shapes: dict[fx.Node, torch.Size] = {}
        self._versions: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        changed = any(self.env[node]._version != self._versions[node] for node in n.all_input_nodes if node in self._versions)
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self._shapes[n], self._versions[n] = value.shape, value._version
        if n in self._needed:
            try:
                if changed:
                    raise Unbounded("what it takes was changed in place before")
                self._bounds[n] = self._bound(n, Call(n, self._bounds, args, kwargs, value))
            except (Unbounded, UserError) as error:
                self._bounds[n] = math.inf
                self.reasons.append(f"{self._name(n)}: {error}")
                self._enter(n, math.inf, math.inf, note=str(error))
        return value

    def _bound(self, n: fx.Node, call: Call) -> float:
        if n.op == "placeholder":
            return 1.0 if n is self._first else 0.0
        if n.op == "output":
            self._finish(n)
            return 0.0
        before = [bound for node in n.all_input_nodes if (bound := self._bounds[node])]
        if not before:
            return 0.0
        if n.op == "call_module":
            if len(before) > 1 or not call.bound():
                raise Unbounded("other inputs than the first depend on the network's")
            return self._module(n, self.fetch_attr(str(n.target)), call.args[0].shape, call.bound())
        if n.target in POOLING:
            return self._times(n, _pool(POOLING[n.target](*call.args[1:], **call.kwargs), call.args[0].shape), call.bound())
        rule = METHODS.get(str(n.target)) if n.op == "call_method" else FUNCTIONS.get(n.target)
        if rule is None:
            raise Unbounded("it has no Lipschitz constant here")
        bound = rule(call)
        if bound and (bound != before[0] or len(before) > 1):
            self._enter(n, bound / max(before) if math.isfinite(bound) else math.inf, bound)
        return bound

    def _module(self, n: fx.Node, layer: nn.Module, shape: torch.Size, bound: float) -> float:
        if any(has_hooks(part) for part in layer.modules()):
            raise Unbounded("it has hooks, which may change what it computes")
        if is_linear(layer):
            if self._norm_after(n) is not None:
                return bound  # they count together, at the normalisation
            return self._times(n, conv_bound(layer, size_of(layer, shape)), bound)
        if not is_batch_norm(layer):
            return self._times(n, _constant(layer, shape), bound)
        scale = scale_of(layer)
        if scale is None:
            raise Unbounded("without running statistics it mixes the examples of a batch")
        source = n.all_input_nodes[0]
        if self._norm_after(source) is not n:
            return self._times(n, float(scale.abs().max()), bound)
        folded = self.fetch_attr(str(source.target))
        assert is_linear(folded)
        size = size_of(folded, self._shapes[source.all_input_nodes[0]])
        return self._times(n, conv_bound(convolution(folded, scale=scale), size), bound, note=f"{source.target} folded in")

    def _norm_after(self, n: fx.Node) -> fx.Node | None:
        """Return the batch normalisation that alone uses the output of a linear layer, and scales its channels, if there is one."""
        if n.op != "call_module" or len(n.users) != 1 or not is_linear(layer := self.fetch_attr(str(n.target))):
            return None
        if len(self._shapes[n]) != dims_of(layer):
            return None  # of (N, L, C) it scales the positions
        (user,) = n.users
        normalises = user.op == "call_module" and is_batch_norm(self.fetch_attr(str(user.target)))
        return user if normalises else None

    def _finish(self, n: fx.Node) -> None:
        logits = n.args[0]
        if not isinstance(logits, fx.Node):
            return
        self.bound = self._bounds[logits]
        layer = self.fetch_attr(str(logits.target)) if logits.op == "call_module" else None
        if layer is not None and is_linear(layer) and dims_of(layer) == 2 and len(self._shapes[logits]) == 2:
            self.features = self._bounds[logits.all_input_nodes[0]]
            self.head = _weight(layer)

    def _times(self, n: fx.Node, constant: float, bound: float, *, note: str = "") -> float:
        bound = constant * bound if constant else 0.0
        if constant != 1:
            self._enter(n, constant, bound, note=note)
        return bound

    def _enter(self, n: fx.Node, constant: float, bound: float, *, note: str = "") -> None:
        operation = type(self.fetch_attr(str(n.target))).__name__ if n.op == "call_module" else str(n.name)
        self.rows.append({"layer": self._name(n), "operation": operation, "constant": constant, "bound": bound, "note": note})

    @staticmethod
    def _name(n: fx.Node) -> str:
        return str(n.target if n.op == "call_module" else n.name)


def _constant(layer: nn.Module, shape: torch.Size) -> float:
    if (stated := getattr(layer, "lipschitz_constant", None)) is not None:
        return float(stated())
    if type(layer) in ACTIVATIONS:
        return ACTIVATIONS[type(layer)](layer)
    if type(layer) in POOLS:
        return _pool(layer, shape)
    if type(layer) in ISOMETRIES:
        return 1.0
    raise Unbounded(f"{type(layer).__name__} has no Lipschitz constant here")


def _pool(pool: nn.Module, shape: torch.Size) -> float:
    directions = 1 if isinstance(pool, POOLS_1D) else 2
    if len(shape) != directions + 2:
        raise Unbounded(f"it pools {tuple(shape)}, which is no batch of channels")
    if getattr(pool, "return_indices", False):
        raise Unbounded("it returns indices, which jump")
    return pool_constant(pool, shape[2:])


def _weight(layer: nn.Module) -> Tensor:
    plain = layer.dense_layer() if isinstance(layer, Adapter) else layer
    return plain.dense_weight() if isinstance(plain, FactoredLayer) else plain.get_parameter("weight")
