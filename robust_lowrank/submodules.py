"""Modules have places in a network, and a compiled network has the one that it was made of."""

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the network that `torch.compile` has wrapped, or the network itself."""
    return getattr(model, "_orig_mod", model)


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one of that name."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)
