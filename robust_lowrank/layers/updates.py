"""Frozen weights have updates by name, of which the active ones take part."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.layers.network import DEFAULT, UPDATE, named_factored_layers

NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


class Updated(nn.Module):
    """What has updates of a frozen weight.

    Attributes:
        names: those of its updates.
        active: the names of the updates that take part.
        folded: the sum of weight and active updates, while they are merged.
    """

    names: tuple[str, ...] = ()
    active: tuple[str, ...] = ()
    folded: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("folded", None, persistent=False)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self.folded = None
        super()._load_from_state_dict(*args, **options)

    def holders(self) -> list[nn.Module]:
        """Return the modules that have an update each, one for every block of the weight."""
        return [self]

    def layers_of(self, name: str) -> list[FactoredLayer]:
        """Return the update of that name, a layer for every block of the weight."""
        return [getattr(holder, slot_of(name)) for holder in self.holders()]

    def add(self, name: str, layers: Sequence[FactoredLayer]) -> None:
        """Add an update, which alone is active then."""
        for holder, layer in zip(self.holders(), layers, strict=True):
            holder.add_module(slot_of(name), layer)
        self.names = (*self.names, name)
        self.activate([name])

    def drop(self, name: str) -> None:
        """Take an update out."""
        self.folded = None
        for holder in self.holders():
            delattr(holder, slot_of(name))
        self.names = tuple(each for each in self.names if each != name)
        self.active = tuple(each for each in self.active if each != name)

    def activate(self, names: Collection[str]) -> None:
        """Let the updates of these names take part and train, if there are such, and no others."""
        self.folded = None
        self.active = tuple(name for name in self.names if name in names)
        for name in self.names:
            for layer in self.layers_of(name):
                layer.requires_grad_(name in self.active)


def check_name(name: object) -> str:
    """Return the name of an adapter.

    Raises:
        UserError: it is none.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"adapter name {name!r} must be letters, digits, - and _, and begin with a letter or digit")
    return name


def slot_of(name: str) -> str:
    """Return the attribute in which the update of that name is.

    Example:
        >>> slot_of("default"), slot_of("german")
        ('update', 'update_german')
    """
    return UPDATE if name == DEFAULT else f"{UPDATE}_{name}"


def adapted_parts(model: nn.Module) -> Iterator[tuple[str, Updated]]:
    """Yield what has updates in a network, each once, with its path."""
    for path, module in model.named_modules():
        if isinstance(module, Updated) and module.names:
            yield path, module


def trained_layers(model: nn.Module) -> Iterator[tuple[str, FactoredLayer]]:
    """Yield the factored layers of a network as `named_factored_layers` does, but for updates that take no part."""
    resting = {
        id(layer)
        for _, part in adapted_parts(model)
        for name in part.names
        if name not in part.active
        for layer in part.layers_of(name)
    }
    for name, layer in named_factored_layers(model):
        if id(layer) not in resting:
            yield name, layer


@contextmanager
def without_updates(model: nn.Module) -> Iterator[None]:
    """Leave the updates of all adapters out of the network for a block: its base alone, without a copy.

    Example:
        >>> with without_updates(model):
        ...     base_logits = model(x)
    """
    before = [(part, part.active) for _, part in adapted_parts(model)]
    try:
        for part, _ in before:
            part.active = ()
        yield
    finally:
        for part, active in before:
            part.active = active
