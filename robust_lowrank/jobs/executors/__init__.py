"""Executors run tasks; each module of this package holds one, as `Executor`, under its own name."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, Self

from robust_lowrank.errors import unknown_name
from robust_lowrank.jobs.events import Report

Task = Callable[[Report], Any]  # picklable; it is called with where its events go, and returns its result


class Executor(Protocol):
    """Runs tasks, several at a time, while it is entered."""

    def __init__(self, workers: int) -> None: ...

    @classmethod
    def default_workers(cls, tasks: int) -> int:
        """Return how many workers suit so many tasks."""
        ...

    @classmethod
    def most_workers(cls) -> int:
        """Return how many workers may be asked for."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None:
        """Wait for what is under way, and begin nothing else."""
        ...

    def submit(self, task: Task) -> None:
        """Take a task, which may begin at once."""
        ...

    def gather(self, report: Report) -> list[Any]:
        """Wait for all tasks taken since the last call, pass on their events, and return their results in order.

        After a failure no other task is begun, and it is raised.
        """
        ...

    def cancel(self) -> None:
        """Drop the tasks that have not begun."""
        ...


def executor_names() -> list[str]:
    """Return the names of all executors."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def find_executor(name: str) -> type[Executor]:
    """Return an executor by its name.

    Example:
        >>> find_executor("processes").default_workers(1)
        1

    Raises:
        UserError: there is none of that name.
    """
    if name not in executor_names():
        raise unknown_name("executor", name, executor_names())
    return import_module(f"{__name__}.{name}").Executor
