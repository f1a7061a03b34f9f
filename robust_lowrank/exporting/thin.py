"""Weights of an export in thin layers are read again: the layers of a dense network make room for such chains."""

from collections.abc import Mapping
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers.conv import ConvShape, FactoredConv, conv_layer, conv_shape
from robust_lowrank.layers.linear import FactoredLinear, linear_layer
from robust_lowrank.submodules import put


def take_thin(model: nn.Module, tensors: Mapping[str, Tensor], undo: ExitStack) -> None:
    """Put chains of thin layers where a state dict has them in the place of a linear layer or a convolution of the network.

    Values are not read yet; `undo` is told how to take the chains out again.

    Example:
        >>> network = nn.Sequential(nn.Linear(6, 5))
        >>> with ExitStack() as undo:
        ...     take_thin(network, {"0.0.weight": torch.ones(2, 6), "0.1.weight": torch.ones(5, 2)}, undo)
        ...     print(network[0])
        Sequential(
          (0): Linear(in_features=6, out_features=2, bias=False)
          (1): Linear(in_features=2, out_features=5, bias=False)
        )

    Raises:
        UserError: thin weights do not multiply to the layer's.
    """
    for name, layer in list(model.named_modules(remove_duplicate=False)):
        if f"{name}.weight" in tensors or f"{name}.0.weight" not in tensors:
            continue
        if FactoredLinear.takes(layer) or FactoredConv.takes(layer):
            undo.callback(put, model, name, layer)
            put(model, name, _chain(name, layer, tensors))


def _chain(name: str, layer: Any, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """Return the chain whose weights a state dict has, in the mode of the layer."""
    weights: list[Tensor] = []
    while (weight := tensors.get(f"{name}.{len(weights)}.weight")) is not None:
        weights.append(weight)
    bias = tensors.get(f"{name}.{len(weights) - 1}.bias")
    linear = FactoredLinear.takes(layer)
    kind = FactoredLinear if linear else FactoredConv
    due = tuple(kind.weight_of(layer).shape)
    kernels = [tuple(weight.shape[2:]) for weight in weights]
    ones = (1,) * (len(due) - 2)
    spatial = 0 if len(weights) == 2 else 1
    fits = (
        len(weights) in ((2,) if linear else (2, 3))
        and all(weight.dim() == len(due) for weight in weights)
        and all(ours.shape[0] == theirs.shape[1] for ours, theirs in pairwise(weights))
        and (weights[-1].shape[0], weights[0].shape[1]) == due[:2]
        and kernels == [due[2:] if place == spatial else ones for place in range(len(weights))]
    )
    if not fits:
        shapes = ", ".join(str(tuple(weight.shape)) for weight in weights)
        raise UserError(f"the thin weights {shapes} of {name!r} do not multiply to {due}")
    if linear:
        return nn.Sequential(linear_layer(weights[0], None), linear_layer(weights[1], bias)).train(layer.training)
    shape = conv_shape(layer)
    if not isinstance(shape, ConvShape):
        raise UserError(f"{name!r} is a {shape}, which is no chain of thin convolutions")
    last = len(weights) - 1
    layers = [
        conv_layer(weight, bias if place == last else None, shape.geometry if place == spatial else None)
        for place, weight in enumerate(weights)
    ]
    return nn.Sequential(*layers).train(layer.training)
