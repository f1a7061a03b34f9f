"""A network as a graph of calls, traced as far as its modules allow."""

from typing import Any, TypeGuard

from torch import fx, nn

from robust_lowrank.conditioning.operators.convolution import LinearLayer
from robust_lowrank.layers import Adapter, FactoredLayer

_LINEAR_FORWARDS = (nn.Linear.forward, nn.Conv2d.forward)


def is_linear(layer: nn.Module) -> TypeGuard[LinearLayer]:
    """Return whether a module computes what its weight says, unlike a subclass of `nn.Linear` with a forward of its own."""
    return isinstance(layer, FactoredLayer | Adapter) or type(layer).forward in _LINEAR_FORWARDS


class _Tracer(fx.Tracer):
    """Goes into every module but linear layers, torch's own, those that state their constant, and those it cannot follow."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = is_linear(m) or callable(getattr(m, "lipschitz_constant", None))
        return known or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:  # forward may raise whatever it likes when it is given a symbol
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def traced(model: nn.Module) -> fx.GraphModule:
    """Return the network as a graph.

    Raises:
        Exception: whatever the network's own forward raises when it is given a symbol.
    """
    return fx.GraphModule(model, _Tracer().trace(model))


def needed(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes on which the output depends."""
    found: set[fx.Node] = set()
    open_nodes = [node for node in graph.nodes if node.op == "output"]
    while open_nodes:
        node = open_nodes.pop()
        if node not in found:
            found.add(node)
            open_nodes += node.all_input_nodes
    return found
