"""Of several processes one turns, moves and truncates a layer, and the others take its result: geometry is done once."""

import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.optim.processes import Processes, processes, sharded
from robust_lowrank.optim.reduction import average
from robust_lowrank.optim.trees import filled, leaves

Tree = Any  # of tensors, numbers and names
AS_BEFORE, CHANGED, FAILED = range(3)  # what a process says at an exchange


@dataclass(frozen=True)
class Blank:
    """What a tensor is, without its numbers."""

    shape: torch.Size
    dtype: torch.dtype
    on_cpu: bool


class StoppedElsewhereError(TrainingError):
    """A step has failed on another process."""


class Owners:
    """Says whose each layer is, and exchanges what owners have made of theirs; of one process all are its own.

    All factors, ranks and moments are the same on all processes, bit for bit, whatever their hardware rounds: they are made by one.

    Args:
        model: the network, whose parameters and buffers become those of the first process.
        layers: those that have an owner, by name.

    Raises:
        UserError: the processes have different networks.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, FactoredLayer]) -> None:
        self._model, self._layers = model, layers
        self._processes: Processes | None = processes()
        self._owner = dict.fromkeys(layers, 0) if self._processes is None else _shared_out(layers, self._processes.size)
        self._known: dict[str, list[Tree]] = {}  # what was exchanged last at each place of a step, without its numbers
        if self._processes is not None:
            _make_alike(model, self._processes)
        self._buffers = self._buffers_now()

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self._processes is not None

    def mine(self, layers: Mapping[str, FactoredLayer]) -> dict[str, FactoredLayer]:
        """Return those of the layers that this process owns."""
        rank = 0 if self._processes is None else self._processes.rank
        return {name: layer for name, layer in layers.items() if self._owner[name] == rank}

    def average(self, parameters: Iterable[nn.Parameter], *, beside: Iterable[Tensor] = ()) -> None:
        """Average gradients, and tensors beside them, over the processes."""
        if self._processes is not None:
            average(parameters, self._processes, beside=beside)

    def exchange(self, place: str, mine: Mapping[str, Tree]) -> dict[str, Tree]:
        """Give the others what has become of this process's layers, and return what has of theirs.

        Args:
            place: in a step; what is exchanged there mostly has the shapes of the last time, which then need no telling.

        Raises:
            StoppedElsewhereError: the step has failed on another process.
        """
        if (all_of_us := self._processes) is None:
            return {}
        layout, known = filled(dict(mine), iter([_blank(leaf) for leaf in leaves(dict(mine))])), self._known.get(place)
        states = all_of_us.numbers(CHANGED if known is None or known[all_of_us.rank] != layout else AS_BEFORE)
        if FAILED in states:
            reasons = [reason for reason in all_of_us.objects(None) if reason is not None]
            raise StoppedElsewhereError(reasons[0])
        if known is None or CHANGED in states:
            known = self._known[place] = all_of_us.objects(layout)
        found: dict[str, Tree] = {}
        for source, theirs in enumerate(known):
            if source == all_of_us.rank:
                all_of_us.broadcast(_tensors(mine), source)
                continue
            made = {name: filled(tree, iter([self._made(name, leaf) for leaf in leaves(tree)])) for name, tree in theirs.items()}
            all_of_us.broadcast(_tensors(made), source)
            found |= made
        return found

    def _made(self, name: str, leaf: Any) -> Any:
        """Return an empty tensor for a blank; what is no tensor as it is."""
        if not isinstance(leaf, Blank):
            return leaf
        return torch.empty(leaf.shape, dtype=leaf.dtype, device="cpu" if leaf.on_cpu else self._layers[name].core.device)

    def fail(self, error: TrainingError) -> None:
        """Tell the others, who wait in an exchange, that the step has failed here, unless one of them has told so."""
        if self._processes is not None and not isinstance(error, StoppedElsewhereError):
            self._processes.numbers(FAILED)
            self._processes.objects(f"process {self._processes.rank}: {error}")

    def share_buffers(self) -> None:
        """Make running statistics, and other buffers that have changed, those of the first process."""
        if self._processes is not None:
            pairs = zip_longest(self._buffers, self._buffers_now(), fillvalue=(None, 0))
            changed = [new for (old, before), (new, after) in pairs if new is not None and (new is not old or before != after)]
            known = {id(buffer) for buffer in changed}
            self._processes.broadcast([*changed, *(each for each in self._statistics() if id(each) not in known)], 0)
            self._buffers = self._buffers_now()

    def _buffers_now(self) -> list[tuple[Tensor, int]]:
        return [(buffer, buffer._version) for buffer in self._model.buffers()] if self.several else []

    def _statistics(self) -> Iterator[Tensor]:
        """Yield what normalisation changes unseen: the versions of these tensors stay."""
        for module in self._model.modules():
            if module.training and isinstance(module, _NormBase):
                yield from (each for each in (module.running_mean, module.running_var) if each is not None)


def _blank(leaf: Any) -> Any:
    return Blank(leaf.shape, leaf.dtype, leaf.device.type == "cpu") if isinstance(leaf, Tensor) else leaf


def _tensors(tree: Mapping[str, Tree]) -> list[Tensor]:
    return [leaf for leaf in leaves(dict(tree)) if isinstance(leaf, Tensor)]


def _shared_out(layers: Mapping[str, FactoredLayer], size: int) -> dict[str, int]:
    """Return the process that owns each layer, each about as much work.

    Layers whose ranks are chosen together, by a threshold of the whole network, have one owner.
    """
    parts: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        jointly = getattr(layer.method, "threshold", None) == "network" and layer.method.adaptive
        parts.setdefault(layer.method if jointly else name, []).append(name)
    work = {
        key: sum(layers[name].weight_parameters() * max(layers[name].ranks(), default=1) for name in names)
        for key, names in parts.items()
    }
    loads = [0] * size
    owners = {}
    for key in sorted(parts, key=work.__getitem__, reverse=True):
        least = loads.index(min(loads))
        loads[least] += work[key]
        owners |= dict.fromkeys(parts[key], least)
    return owners


def _make_alike(model: nn.Module, all_of_us: Processes) -> None:
    """Make a network that of the first process.

    Raises:
        UserError: its parameters and buffers are not of the same names and shapes on all.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    if len(set(all_of_us.numbers(zlib.crc32(repr(shapes).encode())))) > 1:
        theirs = all_of_us.objects(shapes)
        odd = next(
            name for each in theirs for name in each if any(name not in other or other[name] != each[name] for other in theirs)
        )
        raise UserError(
            f"processes train copies of one network, and {odd!r} is not the same on all of them, which has "
            f"{', '.join(str(each[odd][0]) if odd in each else 'none' for each in theirs)}: build and compress it alike on each"
        )
    all_of_us.broadcast([tensor.detach() for tensor in tensors.values() if not sharded(tensor)], 0)
