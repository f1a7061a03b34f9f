"""A network is traced as the calls of torch that it makes, in float64, with layers that are known as a whole kept whole."""

import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from robust_lowrank.conditioning.constants import Unbounded
from robust_lowrank.conditioning.copies import own_copy, wide_copy
from robust_lowrank.conditioning.faithfulness import EQUAL, Watched, compare, compare_precision
from robust_lowrank.errors import first_line
from robust_lowrank.layers import Adapter, ChainLayer
from robust_lowrank.layers.forms import FORMS, is_dense

HOOKS = ("_forward_hooks", "_forward_pre_hooks")
KNOWN = tuple({layer for form in FORMS.values() for layer in form.layers if issubclass(layer, ChainLayer)})

_whole: list[tuple[Any, dict[torch.Size, tuple[torch.Size, torch.dtype]]]] = []  # what they are now, and what came out before


@torch.library.custom_op("robust_lowrank::whole_layer", mutates_args=())
def _whole_layer(x: Tensor, index: int) -> Tensor:
    """Return what the layer makes of its input: one call in the graph, whatever the layer does."""
    forward, outputs = _whole[index]
    before = x.clone()
    with torch._C.DisableTorchFunction():
        y = forward(x).clone()
    if not torch.equal(x, before):
        raise Unbounded("a layer that states its constant changes its input in place")
    outputs[x.shape] = y.shape, y.dtype
    return y


@_whole_layer.register_fake
def _(x: Tensor, index: int) -> Tensor:
    shape, dtype = _whole[index][1][x.shape]
    return x.new_empty(shape, dtype=dtype)


class Traced:
    """A network's graph, and the network itself to compare it with.

    Attributes:
        network: the network in float64 on the CPU, in evaluation mode, with a list of the calls of its last forward pass.
        module: the graph: calls of `torch.ops.aten`, and of modules that are kept whole.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int]) -> None:
        _refuse_global_hooks()
        try:
            wide, self._own = wide_copy(model).cpu(), own_copy(model)
        except Exception as error:  # of whatever it keeps
            raise Unbounded(f"it cannot be copied to float64: {first_line(error)}") from error
        x = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self._shape: tuple[int, ...] = tuple(shape)
        self.network: Watched = watched(wide)
        self._layers: dict[str, nn.Module] = dict(_whole_layers(self.network.network))
        with as_calls(self._layers):
            for _ in range(2):  # what a first pass builds and keeps, the second one finds
                self.network.answer(x)
            self.calls: list[Any] = list(self.network.calls)
            program = _exported(self.network, x)
            if self.network.refuse_reading() != self.calls:
                raise Unbounded("its forward takes another path when it is traced")
            self.module: fx.GraphModule = self._with_modules(program)

    @torch.no_grad()
    def compare(self) -> None:
        """Require that graph and network agree, and the network in float64 with the one that was given.

        Raises:
            Unbounded: they do not.
        """
        own = watched(self._own)
        reference = next((each for each in own.parameters() if each.is_floating_point()), torch.zeros(()))
        x = torch.rand(1, *self._shape, generator=torch.Generator().manual_seed(2)).to(reference)
        with as_calls(self._layers):
            compare(self.network, self.module, self.calls, self._shape)
            wide = self.network.answer(x.double().cpu())
        with as_calls(dict(_whole_layers(own.network))):
            own.answer(x)
            logits = own.answer(x)
        if own.calls != self.calls:
            raise Unbounded(f"in {str(x.dtype).removeprefix('torch.')} its forward takes another path than in float64")
        compare_precision(logits, wide, x.dtype)

    def _with_modules(self, module: fx.GraphModule) -> fx.GraphModule:
        """Return the graph in which calls of whole layers are calls of modules."""
        layers = list(self._layers.values())
        for index, layer in enumerate(layers):
            module.add_submodule(f"whole_{index}", layer)
        for node in list(module.graph.nodes):
            if node.op == "call_function" and str(node.target).startswith("robust_lowrank.whole_layer"):
                index = int(node.args[1])
                with module.graph.inserting_before(node):
                    kept = module.graph.call_module(f"whole_{index}", (node.args[0],))
                kept.meta = {**node.meta, "path": list(self._layers)[index]}
                node.replace_all_uses_with(kept)
                module.graph.erase_node(node)
        module.recompile()
        return module


def watched(network: nn.Module) -> Watched:
    """Return a network, which is changed to evaluation mode, under watch."""
    return Watched(network.eval())


def place(node: fx.Node) -> tuple[str, str]:
    """Return the name and type of the module of torch, or of the whole layer, that makes a call.

    Where none does, as in a program that was exported before, it is the module whose weights the call reads, or the call itself.
    """
    if node.op == "call_module":
        return node.meta["path"], ""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if stack:
        path, kind = stack[-1]
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        if kind.startswith("torch.nn.modules.") and not kind.startswith("torch.nn.modules.container."):
            return _path(path), kind.rpartition(".")[2]
    owners = {str(each.target).rpartition(".")[0] for each in node.all_input_nodes if each.op == "get_attr"}
    if len(owners) == 1 and (owner := owners.pop()):
        return _path(owner), re.sub(r"_\d+$", "", node.name)
    return node.name, node.name


def _path(path: str) -> str:
    """Return the name of a module in the network, to which the tracer adds @ and a number when it is called again."""
    return re.sub(r"@\d+", "", path).removeprefix("network").removeprefix(".") or "the network"


def dependencies(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes on which the output depends."""
    nodes: set[fx.Node] = set()
    for node in reversed(graph.nodes):  # a node comes after its arguments
        if node.op == "output" or any(user in nodes for user in node.users):
            nodes.add(node)
    return nodes


def _exported(network: nn.Module, x: Tensor) -> fx.GraphModule:
    """Return the network's calls without changes in place: what is changed becomes another value.

    Raises:
        Unbounded: it cannot be traced, or changes its input or its state.
    """
    with warnings.catch_warnings(), _silent("torch"), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(network, (x,), strict=False).run_decompositions({})
        except Exception as error:  # the network's own, or the tracer's
            raise Unbounded(f"its forward cannot be traced: {first_line(error)}") from error
    signature = program.graph_signature
    if signature.user_inputs_to_mutate:
        raise Unbounded("its forward changes its input in place")
    if changed := [*signature.buffers_to_mutate.values(), *getattr(signature, "parameters_to_mutate", {}).values()]:
        raise Unbounded(f"its forward changes its own parameters or buffers: {changed[0].removeprefix('network.')}")
    module = program.module()
    assert isinstance(module, fx.GraphModule)
    return module


def _whole_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the outermost layers whose constants are known as a whole: the library's own, and those that state theirs."""
    inside: set[nn.Module] = set()
    for name, module in network.named_modules():
        if module not in inside and _is_whole(module):
            inside.update(module.modules())
            yield name, module


def _is_whole(module: nn.Module) -> bool:
    if any(_has_hooks(part) or "forward" in vars(part) for part in module.modules()):
        return False
    return is_known(module) or callable(getattr(module, "lipschitz_constant", None))


def is_known(module: nn.Module) -> TypeGuard[ChainLayer | Adapter]:
    """Return whether a module is a layer of the library and nothing derived from one."""
    if isinstance(module, Adapter):
        return type(module) is Adapter and is_dense(module.base) and all(map(is_known, module.taking_part()))
    return isinstance(module, ChainLayer) and type(module) in KNOWN and module.slides <= 2


def _has_hooks(module: nn.Module) -> bool:
    return any(getattr(module, hooks) for hooks in HOOKS)


def _refuse_global_hooks() -> None:
    if any(getattr(nn.modules.module, f"_global{hooks}") for hooks in HOOKS):
        raise Unbounded("there are hooks on all modules, which may change what the network computes")


def is_its_factors(layer: ChainLayer | Adapter, x: Tensor) -> bool:
    """Return whether a layer does on random inputs what it is bounded by: its factors in turn, or an adapter's merged layer."""
    chain = layer.dense_layer() if isinstance(layer, Adapter) else layer.factored_layers()
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    found, due = layer(inputs), chain(inputs)
    return torch.allclose(found, due, rtol=EQUAL, atol=EQUAL * float(due.abs().max()) if due.numel() else 0.0)


@contextmanager
def as_calls(layers: dict[str, nn.Module]) -> Iterator[None]:
    """Let layers that are known as a whole appear as one call each."""
    before = list(_whole)
    _whole[:] = [(layer.forward, {}) for layer in layers.values()]
    try:
        for index, layer in enumerate(layers.values()):
            layer.forward = partial(_call_whole, index)
        yield
    finally:
        _whole[:] = before
        for layer in layers.values():
            del layer.forward


def _call_whole(index: int, *args: Any, **kwargs: Any) -> Tensor:
    (x,) = (*args, *kwargs.values())
    return _whole_layer(x, index)


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Keep a library from logging what is raised as well."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
