"""Exports are ordinary torch layers that need nothing of this package."""

import copy
from typing import Literal, get_args

import torch
from torch import nn

from robust_lowrank.errors import unknown_name
from robust_lowrank.layers import Adapter, ChainLayer
from robust_lowrank.layers.merged import uninstall_all
from robust_lowrank.layers.network import put, uncompiled

Form = Literal["dense", "factors", "auto"]


@torch.no_grad()
def export(model: nn.Module, *, to: Form = "auto") -> nn.Module:
    """Return a copy of the network in ordinary torch layers only.

    Args:
        model: the network, which stays as it is.
        to: `dense` merges the factors, `factors` makes a chain of thin layers of each, `auto` takes for each layer the form with
            fewer parameters. What is no layer of its own, such as a recurrent weight, or is read by somebody who computes
            with it, such as an attention, is always merged, and an adapter into its base, which has full rank.

    Keys of the state dict are the network's with `dense` alone: that is the form which transformers reads again.

    The layers are of the network's precision and of the classes that they had before `compress`.

    Example:
        >>> export(nn.Sequential(nn.Linear(2, 2)), to="dense")
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    if to not in get_args(Form):
        raise unknown_name("form", to, get_args(Form))
    plain = copy.deepcopy(uncompiled(model))
    replaced: dict[nn.Module, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in list(plain.named_modules(remove_duplicate=False)):
        if module in inside:
            continue
        if isinstance(module, Adapter | ChainLayer):
            inside.update(set(module.modules()) - {module})
            layer = replaced.setdefault(module, _plain(module, to))
            if not name:
                return layer
            put(plain, name, layer)
    uninstall_all(plain)
    return plain


def _plain(layer: Adapter | ChainLayer, to: Form) -> nn.Module:
    """Return ordinary layers that compute the same, in the mode of the layer; they have its bias, which others may share."""
    if (
        isinstance(layer, Adapter)
        or to == "dense"
        or layer.read
        or (to == "auto" and layer.inference_parameters() >= layer.dense_parameters())
    ):
        plain = last = layer.dense_layer()
    else:
        plain = layer.factored_layers()
        last = plain[-1]
    if isinstance(bias := layer.bias, nn.Parameter):
        bias.requires_grad_(bias.requires_grad or isinstance(layer, Adapter))
        last.register_parameter("bias", bias)
    return plain.train(layer.training)
