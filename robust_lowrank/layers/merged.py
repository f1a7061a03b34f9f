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
from robust_lowrank.layers.network import UPDATE, WHOLE
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

    @torch.no_grad()
    def subtract(self, part: Tensor) -> None:
        """Take a matrix from the block."""
        parameter = self._parameter()
        rows = parameter.reshape(-1, self.weight.shape[1])
        rows[self.start : self.start + len(part)] -= part.to(rows.dtype)
        parameter.copy_(rows.reshape(parameter.shape))


class MergedLayer(FactoredLayer):
    """A block of a parameter that is a product of factors.

    Attributes:
        alpha: its factor in the parameter.
    """

    alpha: float = 1.0
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
        """Return the block (n, m) times alpha, in the network's precision."""
        self.look_at_bases()
        weight = self.merged().to(self.weight_dtype)
        return weight if self.alpha == 1 else self.alpha * weight

    def dense_weight(self) -> Tensor:
        """Return the block (n, m)."""
        return self.merged()

    def inference_parameters(self) -> int:
        """Return the size of the block: ordinary layers have it whole."""
        return self.dense_parameters()


class MergedParameter(nn.Module):
    """What `torch.nn.utils.parametrize` calls in place of a parameter: its blocks, one above the other.

    In an adapter the parameter stays, frozen, and the blocks are added to it.

    Attributes:
        updated: whether an adapter's update takes part.
        installed: whether it stands where it is to stand.
        behind: the names of the module's parameters that come after it.
    """

    updated: bool = True
    installed: bool = False

    def __init__(
        self, blocks: Mapping[str, MergedLayer], shape: torch.Size, *, adapter: bool, behind: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.shape = shape
        self.behind = behind
        self.adapter = adapter
        self.labels: tuple[str, ...] = tuple(blocks)
        for label, block in blocks.items():
            self.add_module(label, _beside(block) if adapter else block)

    def blocks(self) -> dict[str, MergedLayer]:
        """Return the blocks by their labels."""
        suffix = f".{UPDATE}" if self.adapter else ""
        return {label: self.get_submodule(label + suffix) for label in self.labels}  # pyright: ignore[reportReturnType]

    def forward(self, *frozen: Tensor) -> Tensor:
        """Return the parameter."""
        if frozen and not self.updated:
            return frozen[0]
        held = None if torch.compiler.is_compiling() else _HELD.get()
        key = (id(self), torch.is_grad_enabled())
        if held is None or key not in held:
            weight = self._weight().reshape(self.shape)
            weight = frozen[0] + weight if frozen else weight
            if held is None:
                return weight
            held[key] = weight
        return held[key]

    def _weight(self) -> Tensor:
        blocks = list(self.blocks().values())
        if len(blocks) == 1:
            return blocks[0]()
        factors = [block.parameters_as_factors() for block in blocks if isinstance(block, MatrixFactors) and block.alpha == 1]
        if len(factors) == len(blocks) and _alike(factors):
            for block in blocks:
                block.look_at_bases()
            return merge_stack(factors).to(blocks[0].weight_dtype)
        return torch.cat([block() for block in blocks])

    def right_inverse(self, value: Tensor) -> Any:
        """Return what torch is to keep beside the factors: an adapter's frozen parameter, or nothing.

        Raises:
            UserError: somebody assigns a value to the parameter.
        """
        if self.installed:
            raise UserError("a parameter that is assigned to is factored: export the network first, or load factors into it")
        return value if self.adapter else ()


def _alike(stack: list[Factors]) -> bool:
    """Return whether factors have the same shapes; not where these are left open."""
    if any(is_open(*factors.core.shape) for factors in stack):
        return False
    return len({(factors.core.shape, *(basis.shape for basis in factors.bases)) for factors in stack}) == 1


def _beside(update: MergedLayer) -> nn.Module:
    """Return a module that holds an adapter's update under its name."""
    holder = nn.Module()
    holder.add_module(UPDATE, update)
    return holder


def install_merged(places: list[Place], blocks: Mapping[str, MergedLayer], *, adapter: bool = False) -> None:
    """Let blocks stand for a parameter in every module that has it, or in an adapter beside it."""
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


def put_back(module: nn.Module, name: str, parameter: nn.Parameter, order: list[str], kind: type[nn.Module]) -> None:
    """Put a parameter back that a module had, whatever stands for it now, and the class that the module had."""
    if parametrize.is_parametrized(module, name):
        merged_parameters(module)[name].updated = False  # an adapter's parameter is to be as it was
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


def uninstall_all(model: nn.Module, *, updated: bool = True) -> None:
    """Put parameters in the place of all that is merged in a network, or without `updated` the frozen ones of adapters."""
    parameters: dict[MergedParameter, nn.Parameter] = {}
    for module in list(model.modules()):
        for name, stand_in in merged_parameters(module).items():
            stand_in.updated = updated and stand_in not in parameters  # what others share has been merged once
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
