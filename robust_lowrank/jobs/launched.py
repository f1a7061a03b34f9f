"""A launcher such as torchrun starts several processes of one command; they train one network, and the first one writes the run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.optim.processes import processes


@contextmanager
def joined() -> Iterator[bool]:
    """Join the processes that a launcher has started with this one, and give whether this is the first of them, or alone.

    Where the caller has set `torch.distributed` up, it stays as it is.

    Example:
        >>> with joined() as first:
        ...     first
        True
    """
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and not dist.is_initialized()
    if launched:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        all_of_us = processes()
        yield all_of_us is None or all_of_us.rank == 0
    finally:
        if launched:
            dist.destroy_process_group()


@contextmanager
def own_directory(out: Path) -> Iterator[Path]:
    """Lock a run directory for the first process, and give it; give each other process a copy of its own, which is then deleted.

    All write the same; what the others have written is nobody's.

    Raises:
        UserError: the first process could not lock it.
    """
    all_of_us = processes()
    if all_of_us is None:
        with records.writing(out):
            yield out
    elif all_of_us.rank == 0:
        with ExitStack() as held:
            refused = None
            try:
                held.enter_context(records.writing(out))
            except UserError as error:
                refused = error
            all_of_us.objects(None if refused is None else str(refused))
            if refused is not None:
                raise refused
            all_of_us.objects(None)  # the others have their copies
            yield out
    else:
        if (refused := all_of_us.objects(None)[0]) is not None:
            raise UserError(refused)
        with tempfile.TemporaryDirectory(prefix="rlr-") as folder:
            copy = Path(folder) / out.name
            if out.is_dir():
                shutil.copytree(out, copy, ignore=shutil.ignore_patterns(".lock*"))
            all_of_us.objects(None)
            yield copy
