"""A function runs in several processes of torch.distributed."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def in_processes(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what `function(rank, size, *arguments)` returns in each of so many processes."""
    with tempfile.TemporaryDirectory() as directory:
        mp.spawn(_work, (size, directory, function, arguments), nprocs=size)
        return [torch.load(Path(directory) / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _work(rank: int, size: int, directory: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=size)
    try:
        torch.save(function(rank, size, *arguments), Path(directory) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
