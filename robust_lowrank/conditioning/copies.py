"""A network is copied with whatever it keeps of earlier passes."""

import copy

from torch import Tensor, nn


def wide_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a network in float64 and evaluation mode, on its own device."""
    return own_copy(model).double().eval()


def own_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a network in its own precision.

    Tensors that came out of a pass with gradients and are kept as attributes, as pruning and feature caches do, cannot be copied by
    `copy.deepcopy`: they lose their history.
    """
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo = {id(value): value.detach().clone() for value in kept if not value.is_leaf}
    return copy.deepcopy(model, memo)
