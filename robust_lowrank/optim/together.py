"""A function of one layer's small tensors is called once for all layers of equal shapes, on stacks of them.

A layer of little arithmetic costs the calls of torch, some ten microseconds each. Of many layers alike, as adapters are, a stack
costs the calls of one. Large ones gain nothing, and are not copied.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from robust_lowrank.optim.naming import naming_layer
from robust_lowrank.optim.trees import filled, leaves

FEWEST = 3  # layers that are worth a stack
LARGEST = {"cpu": 2**15}  # numbers in a tensor that is copied into a stack, by the kind of device
LARGEST_ELSEWHERE = 2**21


def together(function: Callable[..., Any], calls: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Return `function(*arguments)` for the arguments of each layer, those of equal shapes computed together.

    Arguments and results are tensors in tuples, named tuples and dicts; what else these hold, and scalars on the CPU, is a part of
    the function. Where a result is not finite, as `decompositions.checked` has it, each layer of the stack is computed by itself.

    Args:
        calls: the arguments, by the layers' names.

    Example:
        >>> together(lambda a: a.T @ a, {str(i): (torch.eye(2),) for i in range(3)})["0"]
        tensor([[1., 0.],
                [0., 1.]])

    Raises:
        FactorisationError: a decomposition fails, which names the layer.
    """
    flat = {name: leaves(arguments) for name, arguments in calls.items()}
    alike: defaultdict[Hashable, list[str]] = defaultdict(list)
    for name, each in flat.items():
        alike[tuple(map(_kind, each))].append(name)
    found = {}
    for names in alike.values():
        first = names[0]
        results = None
        if len(names) >= FEWEST and all(map(_small, flat[first])):
            results = _mapped(function, calls[first], [flat[name] for name in names])
        for place, name in enumerate(names):
            with naming_layer(name):
                found[name] = function(*calls[name]) if results is None else results[place]
    return {name: found[name] for name in calls}


def _mapped(function: Callable[..., Any], example: tuple[Any, ...], calls: list[list[Any]]) -> list[Any] | None:
    """Return the results for the leaves of several calls by one on their stacks; None if not all of them can be relied on."""
    varying = [place for place, leaf in enumerate(calls[0]) if _varies(leaf)]
    form: list[Any] = []

    def one(*tensors: Tensor) -> tuple[Tensor, ...]:
        flat = list(calls[0])
        for place, tensor in zip(varying, tensors, strict=True):
            flat[place] = tensor
        result = function(*filled(example, iter(flat)))
        form.append(result)
        return tuple(leaves(result))

    try:
        stacked = torch.func.vmap(one)(*(torch.stack([flat[place] for flat in calls]) for place in varying))
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return None
    if not bool(torch.stack([each.sum() for each in stacked]).isfinite().all()):
        return None
    return [filled(form[0], iter(parts)) for parts in zip(*(each.unbind() for each in stacked), strict=True)]


def _varies(leaf: Any) -> bool:
    """Return whether a leaf is another one for each layer of a stack: scalars on the CPU may be looked at."""
    return isinstance(leaf, Tensor) and (leaf.dim() > 0 or leaf.device.type != "cpu")


def _kind(leaf: Any) -> Hashable:
    """Return what is equal for leaves that can stand in one stack."""
    if _varies(leaf):
        return leaf.shape, leaf.dtype, leaf.device
    return float(leaf) if isinstance(leaf, Tensor) else leaf


def _small(leaf: Any) -> bool:
    return not _varies(leaf) or leaf.numel() <= LARGEST.get(leaf.device.type, LARGEST_ELSEWHERE)
