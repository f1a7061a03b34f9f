"""In a network factored layers have places and names."""

import re
from collections.abc import Iterator

from torch import nn

from robust_lowrank.layers.base import FactoredLayer

PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.(\w+)\.0\.")  # where torch keeps what stands for a parameter
WHOLE = "whole"  # the one block of a parameter that is a single matrix
UPDATE = "update"  # of an adapter, and the first part of those that have names
DEFAULT = "default"  # the name of an adapter that was given none


def named_factored_layers(model: nn.Module) -> Iterator[tuple[str, FactoredLayer]]:
    """Yield the names and modules of the factored layers, in the order of definition.

    What stands for a parameter has its name, such as `lstm.weight_hh_l0`, and of several blocks each that of the block after it,
    such as `attention.in_proj_weight.q`.
    """
    for name, module in model.named_modules():
        if isinstance(module, FactoredLayer):
            yield shown_name(name), module


def shown_name(path: str) -> str:
    """Return the name of a layer for people, from its path in the network.

    Example:
        >>> shown_name("lstm.parametrizations.weight_hh_l0.0.whole"), shown_name("fc")
        ('lstm.weight_hh_l0', 'fc')
    """
    if "parametrizations." not in path:
        return path
    return re.sub(rf"\.{WHOLE}(?=$|\.{UPDATE}(_[^.]*)?$)", "", PARAMETRIZED.sub(r"\1\2.", path))


def owner_of(path: str) -> tuple[str, str]:
    """Return the names of a module and its parameter, from the path of what stands for that or of anything in it.

    Example:
        >>> owner_of("lstm.parametrizations.weight_hh_l0.0.whole")
        ('lstm', 'weight_hh_l0')
    """
    owner, _, rest = path.rpartition("parametrizations.")
    return owner.removesuffix("."), rest.partition(".")[0]
