"""Commands are run in processes of their own, as a shell would, and what they cost, said and changed is told."""

import contextlib
import hashlib
import importlib
import os
import resource
import shlex
import signal
import stat
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from tests.hostile.measuring import resident

LONGEST = 60  # seconds of the clock after which a command hangs
HASHED = 2**22  # bytes of a file up to which all of them count
NEEDED = (  # what commands import as they need it
    "robust_lowrank.cli.app",
    "robust_lowrank.reporting",
    "tests.hostile.measuring",
    "pandas",
    "pyarrow.parquet",
    "sklearn.datasets",
    "torchvision.datasets",
    "torchvision.transforms.v2",
    "torch.export",
    "torch.jit",
    "onnxruntime",
    "onnx",
)


class Ended(NamedTuple):
    """How a command ended."""

    code: int | None  # negative: the signal that ended it; None: it did not end by itself
    seconds: float  # of a processor, those of its own children too
    growth: int  # bytes by which its process grew
    said: str


def run(command: str, place: Path, temporary: Path) -> Ended:
    """Run a command in a directory and with another for temporary files; nobody sees what it says."""
    context = get_context("forkserver")
    context.set_forkserver_preload([name for name in NEEDED if is_there(name)])
    here, there = context.Pipe(duplex=False)
    with (temporary.parent / "said").open("w+b") as said:
        process = context.Process(target=_run, args=(command, place, temporary, said.name, there))
        process.start()
        there.close()
        process.join(LONGEST)
        hangs = process.is_alive()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        told = None
        with contextlib.suppress(EOFError):
            told = here.recv()
        text = said.read().decode(errors="backslashreplace")
    code, seconds, growth = told or (None if hangs else -abs(process.exitcode or 1), float(LONGEST * hangs), 0)
    return Ended(code, seconds, growth, text)


def contents(place: Path) -> dict[str, str]:
    """Return what lies below a directory: hashes of files, of large ones sizes and times, and where links lead."""
    return {path.relative_to(place).as_posix(): _content(path) for path in place.rglob("*")}


def _content(path: Path) -> str:
    told = path.lstat()
    if path.is_symlink():
        return f"link to {path.readlink()}"
    if not stat.S_ISREG(told.st_mode):
        return f"no file: {stat.S_IFMT(told.st_mode)}"
    return f"{told.st_size} {told.st_mtime_ns}" if told.st_size > HASHED else hashlib.sha256(path.read_bytes()).hexdigest()


def _run(command: str, place: Path, temporary: Path, said: str, there: object) -> None:
    import torch

    from robust_lowrank.cli import main

    os.setsid()
    os.chdir(place)
    handle = os.open(said, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.path.insert(0, str(place))  # as hostile files hope
    sys.argv = ["rlr-eval", *shlex.split(command)]
    os.environ["TMPDIR"] = str(temporary)
    torch.set_num_threads(1)
    before, began = resident(), time.process_time()
    try:
        main()
        code: object = 0
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    mine, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = time.process_time() - began + children.ru_utime + children.ru_stime
    there.send((code, seconds, 1024 * mine.ru_maxrss - before))  # type: ignore[attr-defined]


def is_there(name: str) -> bool:
    """Return whether a package is installed."""
    return importlib.util.find_spec(name.partition(".")[0]) is not None
