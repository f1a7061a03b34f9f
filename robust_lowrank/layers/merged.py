"""A merged layer stands for a block of a parameter, wherever that is used: its weight is formed in every forward pass."""

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import FactoredLayer, Kind, MatrixFactors
from robust_lowrank.layers.compiling import is_open
from robust_lowrank.layers.merging import merge_stack
from robust_lowrank.layers.network import DEFAULT, WHOLE
from robust_lowrank.layers.updates import Updated
from robust_lowrank.linalg import Factors

_HELD: ContextVar[dict[tuple[int, bool], Tensor] | None] = ContextVar(
    "held", default=None
)  # weights formed in one pass, by one thread


class Place(NamedTuple):
    """A block of a parameter: the module that owns it, its name there, and where among the rows of the parameter's matrix."""

    module: nn.Module
    parameter: str
    block: str = WHOLE


class Block:
    """A block of a parameter, as a layer to be factored: its weight is a matrix.

    Attributes:
        places: where it is; a parameter that several modules share has one a module.
        weight: the block (n, m).
        start: the first of its rows among those of the parameter.
        trains: whether the parameter requires gradients.
    """

    bias: None = None

    def __init__(self, places: list[Place], weight: Tensor, start: int) -> None:
        self.places = places
        self.weight: Tensor = weight
        self.start = start
        self.training: bool = places[0].module.training
        self.trains: bool = self._parameter().requires_grad

    def _parameter(self) -> Tensor:
        return getattr(self.places[0].module, self.places[0].parameter)


class MergedLayer(FactoredLayer):
    """A block of a parameter that is a product of factors, or in an adapter is added to it."""

    kind: ClassVar[Kind] = "merged"

    @classmethod
    def takes(cls, layer: Any) -> bool:
        """Return whether a layer is a block of a parameter."""
        return isinstance(layer, Block)

    @classmethod
    def in_place_of(cls, layer: Any, factors: Factors, bias: Tensor | None) -> "MergedLayer":
        """Return the block of these factors."""
        built = cls(factors)
        built.weight_dtype = layer.weight.dtype
        return built

    def forward(self) -> Tensor:
        """Return the block (n, m), or what is added to it, in the network's precision."""
        self.look_at_bases()
        return self.weight_change().to(self.weight_dtype)

    def inference_parameters(self) -> int:
        """Return the size of the block: ordinary layers have it whole."""
        return self.dense_parameters()


class MergedParameter(Updated):
    """What `torch.nn.utils.parametrize` calls in place of a parameter: its blocks, one above the other.

    In an adapter the parameter stays, frozen, and the blocks are added to it.

    Attributes:
        labels: those of the blocks.
        installed: whether it stands where it is to stand.
        behind: the names of the module's parameters that come after it.
    """

    installed: bool = False

    def __init__(
        self,
        blocks: Mapping[str, MergedLayer],
        shape: torch.Size,
        *,
        adapter: str | None = None,
        behind: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.shape = shape
        self.behind = behind
        self.adapter: bool = adapter is not None
        self.labels: tuple[str, ...] = tuple(blocks)
        for label, block in blocks.items():
            self.add_module(label, block if adapter is None else nn.Module())
        if adapter is not None:
            self.add(adapter, list(blocks.values()))

    def holders(self) -> list[nn.Module]:
        """Return the modules that have an adapter's updates, one for every block."""
        return [self.get_submodule(label) for label in self.labels]

    def blocks(self, name: str = DEFAULT) -> dict[str, MergedLayer]:
        """Return the blocks by their labels, those of one update if it is an adapter."""
        layers = self.layers_of(name) if self.adapter else self.holders()
        return dict(zip(self.labels, layers, strict=True))  # pyright: ignore[reportReturnType]

    def forward(self, *frozen: Tensor) -> Tensor:
        """Return the parameter."""
        if frozen and not self.active:
            return frozen[0]
        if self.folded is not None:
            return self.folded
        held = None if torch.compiler.is_compiling() else _HELD.get()
        key = (id(self), torch.is_grad_enabled())
        if held is None or key not in held:
            parts = [_stacked(list(self.blocks(name).values())).reshape(self.shape) for name in self.active or (DEFAULT,)]
            weight = sum(parts, start=frozen[0]) if frozen else parts[0]
            if held is None:
                return weight
            held[key] = weight
        return held[key]

    def right_inverse(self, value: Tensor) -> Any:
        """Return what torch is to keep beside the factors: an adapter's frozen parameter, or nothing.

        Raises:
            UserError: somebody assigns a value to the parameter.
        """
        if self.installed:
            raise UserError("a parameter that is assigned to is factored: export the network first, or load factors into it")
        return value if self.adapter else ()


def _stacked(blocks: list[MergedLayer]) -> Tensor:
    """Return blocks one above the other; those of one shape are formed together."""
    if len(blocks) == 1:
        return blocks[0]()
    plain = [block for block in blocks if isinstance(block, MatrixFactors) and block.alpha == 1 and block.start is None]
    factors = [block.parameters_as_factors() for block in plain]
    if len(factors) == len(blocks) and _alike(factors):
        for block in blocks:
            block.look_at_bases()
        return merge_stack(factors).to(blocks[0].weight_dtype)
    return torch.cat([block() for block in blocks])


def _alike(stack: list[Factors]) -> bool:
    """Return whether factors have the same shapes; not where these are left open."""
    if any(is_open(*factors.core.shape) for factors in stack):
        return False
    return len({(factors.core.shape, *(basis.shape for basis in factors.bases)) for factors in stack}) == 1


def install_merged(places: list[Place], blocks: Mapping[str, MergedLayer], *, adapter: str | None = None) -> MergedParameter:
    """Let blocks stand for a parameter wherever it is, or be its update of that name, and return what holds them."""
    owner, name, _ = places[0]
    names = list(owner._parameters)
    behind = tuple(names[names.index(name) + 1 :])
    stand_in = MergedParameter(blocks, getattr(owner, name).shape, adapter=adapter, behind=behind)
    for module, parameter, _ in places:
        if parametrize.is_parametrized(module):
            _own_class(module)
        parametrize.register_parametrization(module, parameter, stand_in, unsafe=True)  # shape and type are known to fit
        kind: Any = type(module)
        if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            kind.forward = _reading_once(kind.__base__.forward)
        if isinstance(module, nn.RNNBase):
            kind._flat_weights = property(_flat_weights, _ignore)
            vars(module).pop("_flat_weights", None)
    stand_in.installed = True
    return stand_in


def put_back(module: nn.Module, name: str, parameter: nn.Parameter, order: list[str], kind: type[nn.Module]) -> None:
    """Put a parameter back that a module had, whatever stands for it now, and the class that the module had."""
    if parametrize.is_parametrized(module, name):
        merged_parameters(module)[name].active = ()  # an adapter's parameter is to be as it was
        _uninstall(module, name, {})
    module._parameters.pop(name, None)
    if not parametrize.is_parametrized(module):
        module.__class__ = kind
    module.register_parameter(name, parameter)
    for each in order:
        if each in module._parameters:
            module._parameters[each] = module._parameters.pop(each)
    _refresh(module)


def _refresh(module: nn.Module) -> None:
    """Have a recurrent layer whose weights are all its own again look for them anew."""
    if isinstance(module, nn.RNNBase) and not parametrize.is_parametrized(module):
        module._init_flat_weights()


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own, which it shares with its copies."""
    kind = type(module)
    module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))  # pyright: ignore[reportAttributeAccessIssue]


def uninstall_all(model: nn.Module, *, updated: bool = True, only: MergedParameter | None = None) -> None:
    """Put parameters in the place of all that is merged in a network, or without `updated` the frozen ones of adapters."""
    parameters: dict[MergedParameter, nn.Parameter] = {}
    for module in list(model.modules()):
        for name, stand_in in merged_parameters(module).items():
            if only not in (None, stand_in):
                continue
            if not updated or stand_in in parameters:  # what others share has been merged once
                stand_in.active = ()
            _uninstall(module, name, parameters)


def _uninstall(module: nn.Module, name: str, parameters: dict[MergedParameter, nn.Parameter]) -> None:
    """Put a parameter with the merged weight in the place of its factors, or the one that another module got for them."""
    _own_class(module)
    stand_in = merged_parameters(module)[name]
    trains = any(parameter.requires_grad for parameter in stand_in.parameters())
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    weight = getattr(module, name).detach()
    for kind in (module._buffers, module._parameters):
        kind.pop(name, None)
    parameter = parameters.setdefault(stand_in, nn.Parameter(weight, requires_grad=trains))
    module.register_parameter(name, parameter)
    for each in stand_in.behind:
        if each in module._parameters:
            module._parameters[each] = module._parameters.pop(each)
    _refresh(module)


def merged_parameters(module: nn.Module) -> dict[str, MergedParameter]:
    """Return what stands for parameters of a module, by their names."""
    if not parametrize.is_parametrized(module):
        return {}
    lists = vars(module)["_modules"]["parametrizations"]
    return {name: each[0] for name, each in lists.items() if isinstance(each[0], MergedParameter)}


def _reading_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a pass of a module that reads its weights several times, in which each is formed once."""

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(*args, **kwargs)
        token = _HELD.set({})
        try:
            return forward(*args, **kwargs)
        finally:
            _HELD.reset(token)

    return wrapped


def _flat_weights(module: Any) -> list[Tensor | None]:
    """Return the weights of a recurrent layer, which otherwise keeps those that it had when it was made."""
    return [getattr(module, name, None) for name in module._flat_weights_names]


def _ignore(module: Any, value: Any) -> None:
    """Do nothing: the weights are read anew each time."""
