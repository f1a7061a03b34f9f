"""Processes that train copies of one network send one another numbers, objects and tensors."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """All processes of `torch.distributed`.

    Numbers and objects go between their CPUs, so that nobody waits for a GPU, by gloo.

    Attributes:
        rank: the number of this one.
        size: how many there are.
    """

    def __init__(self) -> None:
        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()
        between_cpus = "gloo" in str(dist.get_backend_config())
        self._cpus: Any = None if between_cpus else dist.new_group(backend="gloo")  # of torch: None for all

    def numbers(self, number: int) -> list[int]:
        """Return the numbers of all, in the order of their ranks."""
        found = torch.zeros(self.size, dtype=torch.int64)
        found[self.rank] = number
        dist.all_reduce(found, group=self._cpus)
        return found.tolist()

    def objects(self, each: Any) -> list[Any]:
        """Return the objects of all, in the order of their ranks."""
        found = [None] * self.size
        dist.all_gather_object(found, each, group=self._cpus)
        return found

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Put in the place of tensors, which all have in these shapes, their mean over the processes.

        Those of one type are one message: as many numbers as they have.
        """
        for alike in _by_kind(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.all_reduce(flat, group=self._group(flat))
            _scatter(flat.div_(self.size), alike)

    def broadcast(self, tensors: Sequence[Tensor], source: int) -> None:
        """Put in the place of tensors, which all have in these shapes, those of one process."""
        for alike in _by_kind(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.broadcast(flat, source, group=self._group(flat))
            if source != self.rank:
                _scatter(flat, alike)

    def _group(self, tensor: Tensor) -> Any:
        return self._cpus if tensor.device.type == "cpu" else None


_known: list[tuple[Any, Processes]] = []


def processes() -> Processes | None:
    """Return the processes of `torch.distributed`; None of one alone."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if not _known or _known[0][0] is not dist.group.WORLD:
        _known[:] = [(dist.group.WORLD, Processes())]
    return _known[0][1]


def sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is spread over processes by torch, as those of `fully_shard` are, which averages their gradients."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that processes share, gathered; any other as it is."""
    return tensor.full_tensor() if sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def _by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    found: defaultdict[tuple[torch.device, torch.dtype], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        found[tensor.device, tensor.dtype].append(tensor)
    return list(found.values())


def _scatter(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
