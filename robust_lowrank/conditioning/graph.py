"""A network is traced as a graph of calls, as far as modules allow."""

from typing import Any

from torch import fx, nn

from robust_lowrank.conditioning.operators.convolution import is_linear


class _Tracer(fx.Tracer):
    """Goes into every module but linear layers, torch's own, those that state their constant, and those it cannot follow."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        bounded = is_linear(m) or callable(getattr(m, "lipschitz_constant", None))
        return bounded or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # forward may raise whatever it likes when it is given a symbol
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return the network as a graph.

    Raises:
        Exception: whatever the network's own forward raises when it is given a symbol.
    """
    return fx.GraphModule(model, _Tracer().trace(model))


def reason_to_distrust(model: nn.Module, graph: fx.Graph) -> str | None:
    """Return why the graph may not be what the network in evaluation mode computes, or None."""
    if has_hooks(model):
        return "the network has hooks, which may change what it computes"
    for name, module in model.named_modules():
        place = repr(name) if name else "the network"
        if module.training:
            return f"{place} stays in training mode"
        if {"forward", "_conv_forward"} & vars(module).keys():
            return f"{place} has a forward that is not its class's"
    if any(node.target is getattr and node.args[1] == "data" for node in graph.nodes):
        return "it reaches for the data of a tensor, which may change unseen"
    return None


def has_hooks(module: nn.Module) -> bool:
    """Return whether something else may happen before or after the module's own forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def dependencies(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes on which the output depends."""
    nodes: set[fx.Node] = set()
    for node in reversed(graph.nodes):  # a node comes after its arguments
        if node.op == "output" or any(user in nodes for user in node.users):
            nodes.add(node)
    return nodes
