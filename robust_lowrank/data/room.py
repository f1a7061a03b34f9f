"""Images that do not fit into memory lie in a file without a name, and are read as they are needed."""

import mmap
import shutil
import tempfile
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from robust_lowrank.bounds import available_memory
from robust_lowrank.errors import UserError, shown

KEPT_FREE = 2**30  # bytes of the disk


def room(shape: Sequence[int], what: str) -> Tensor:
    """Return a tensor of bytes to write to: in memory, or in a temporary file (`TMPDIR` says where) that vanishes with it.

    Example:
        >>> room((2, 3), "two images").dtype
        torch.uint8

    Args:
        what: in words, for an error.

    Raises:
        UserError: it fits neither into memory nor on the disk.
    """
    size, available = prod(shape), available_memory()
    if available is None or size <= available:
        return torch.empty(shape, dtype=torch.uint8)
    directory = tempfile.gettempdir()
    free = max(0, shutil.disk_usage(directory).free - KEPT_FREE)
    if size > free:
        raise UserError(
            f"{what} would take {size / 2**30:,.1f} GiB: {available / 2**30:,.1f} GiB of memory are free here, and "
            f"{free / 2**30:,.1f} GiB in {shown(directory)}. Set TMPDIR to a directory with more room, or give a smaller size"
        )
    with tempfile.TemporaryFile() as file:
        file.truncate(size)
        mapped = mmap.mmap(file.fileno(), size)
    return torch.frombuffer(mapped, dtype=torch.uint8).view(*shape)
