"""Exports are ordinary torch layers that need nothing of this package."""

import copy
from typing import Literal, get_args

import torch
from torch import nn

from robust_lowrank.compression import install
from robust_lowrank.errors import unknown_name
from robust_lowrank.layers import Adapter, named_factored_layers

Form = Literal["dense", "factors", "auto"]


@torch.no_grad()
def export(model: nn.Module, *, to: Form = "auto") -> nn.Module:
    """Return a copy of the network in ordinary torch layers only.

    Args:
        model: the network, which stays as it is.
        to: `dense` merges the factors, `factors` makes a chain of thin layers of each, `auto` takes for each layer the form with
            fewer parameters. An adapter is always merged into its base, which has full rank.

    Example:
        >>> export(nn.Sequential(nn.Linear(2, 2)), to="dense")
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    if to not in get_args(Form):
        raise unknown_name("form", to, get_args(Form))
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Adapter):
            merged = module.dense_layer().train(module.training)
            if not name:
                return merged
            install(plain, name, merged)
    for name, layer in list(named_factored_layers(plain)):
        dense = to == "dense" or (to == "auto" and layer.inference_parameters() >= layer.dense_parameters())
        replacement = layer.dense_layer() if dense else layer.factored_layers()
        if not name:
            return replacement.train(layer.training)
        install(plain, name, replacement.train(layer.training))
    return plain
