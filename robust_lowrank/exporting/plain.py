"""A network becomes one of ordinary torch layers, which need nothing of this package."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from robust_lowrank.layers import Adapter, ChainLayer
from robust_lowrank.layers.merged import uninstall_all
from robust_lowrank.submodules import put, uncompiled

Choice = Callable[[str, ChainLayer], bool]  # by name and layer: whether it becomes a chain of thin layers


def always(name: str, layer: ChainLayer) -> bool:
    """Choose the chain of thin layers."""
    return True


def never(name: str, layer: ChainLayer) -> bool:
    """Choose the merged weight."""
    return False


def fewer_parameters(name: str, layer: ChainLayer) -> bool:
    """Choose the chain of thin layers where it has fewer parameters."""
    return layer.inference_parameters() < layer.dense_parameters()


@torch.no_grad()
def plain(model: nn.Module, chains: Choice) -> nn.Module:
    """Return a copy of the network in ordinary torch layers, some of its factored ones as chains of thin layers.

    The layers are of the network's precision and of the classes that they had before `compress`. An adapter is merged into its
    base, which has full rank; and so is what is no layer of its own, or is read by somebody who computes with it.
    """
    copied = copy.deepcopy(uncompiled(model))
    replaced: dict[nn.Module, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in list(copied.named_modules(remove_duplicate=False)):
        if module in inside:
            continue
        if isinstance(module, Adapter | ChainLayer):
            inside.update(set(module.modules()) - {module})
            if module not in replaced:
                replaced[module] = module.ordinary(thin=isinstance(module, ChainLayer) and chains(name, module))
            layer = replaced[module]
            if not name:
                return layer
            put(copied, name, layer)
    uninstall_all(copied)
    return copied
