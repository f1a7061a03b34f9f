"""Tasks run in actors of Ray, on the cluster that RAY_ADDRESS names or on this machine; what a lost one was at is done again."""

import logging
import math
import os
import platform
import signal
import socket
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import torch

from robust_lowrank.data.catalogue import DATA_DIR_VARIABLE
from robust_lowrank.errors import UserError, first_line, shown
from robust_lowrank.extras import needed
from robust_lowrank.jobs.events import Event, Report, Throttled
from robust_lowrank.jobs.executors import Task
from robust_lowrank.jobs.executors._machines import Machine

# Ray reads these while it is imported or starts: nothing is sent anywhere, and what its parts have to say stays in its log files,
# as on stdout it would stand among the results.
for _name, _value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": "^"}.items():
    os.environ.setdefault(_name, _value)

with needed("ray", "the executor ray"):
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ADDRESS = "RAY_ADDRESS"  # Ray's own variable
MOST = 4  # workers a core
LOST = "a worker was lost, as where a machine goes or memory runs out: its task goes on from what it has stored"
_HERE = "local"  # the address by which Ray starts on this machine
_NAMESPACE = "robust-lowrank"  # of a connection that is made here, and so ended here
_ANSWER = 10.0  # seconds in which a cluster answers
_WAIT = 0.1  # seconds between looks at events
_ALWAYS = -1  # Ray's number of tries without an end

Resources = Mapping[str, float]  # of a node, or asked for


class Executor:
    """See `executors.Executor`.

    A worker has one task at a time, so that none waits behind a long one: beside tasks of seconds to hours, to send the next takes
    no time. What is waited for are futures, as Ray's own functions take every signal for Ctrl-C.
    """

    def __init__(self, workers: int) -> None:
        self._count = workers
        self._tasks: list[Task] = []
        self._actors: list[Any] = []
        self._free: list[Any] = []  # workers without a task
        self._calls: dict[Future[Any], tuple[Any, int | None]] = {}  # the worker, and the number of its task; None for a greeting
        self._events: Any = None  # an actor too

    @classmethod
    def default_workers(cls, tasks: int) -> int:
        """Return one worker a GPU, or one a core where there is none."""
        gpus, cores = _devices(_nodes())
        return max(1, min(tasks, gpus or cores))

    @classmethod
    def most_workers(cls) -> int:
        """Return as many as there are GPUs, or four a core."""
        gpus, cores = _devices(_nodes())
        return max(1, gpus or MOST * cores)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not ray.is_initialized():
            return
        under_way = [call for call, (_, number) in self._calls.items() if number is not None]
        if kind is None or not issubclass(kind, KeyboardInterrupt):
            wait(under_way)
        if ray.get_runtime_context().namespace == _NAMESPACE:
            ray.shutdown()
        else:
            for actor in self._actors:
                ray.kill(actor)

    def submit(self, task: Task) -> None:
        """Take a task."""
        self._tasks.append(task)

    def cancel(self) -> None:
        """Drop the tasks that have not begun."""
        self._tasks.clear()

    def gather(self, report: Report) -> list[Any]:
        """Do all tasks, and return their results."""
        tasks, self._tasks = self._tasks, []
        if tasks and not self._actors:
            self._begin(report)
        waiting = deque(range(len(tasks)))
        results: dict[int, Any] = {}
        while len(results) < len(tasks):
            while waiting and self._free:
                worker, number = self._free.pop(), waiting.popleft()
                self._calls[worker.perform.remote(tasks[number], self._events).future()] = worker, number
            ended, _ = wait(self._calls, timeout=_WAIT, return_when="FIRST_COMPLETED")
            for values in self._events.take.remote().future().result():
                report(Event(*values))
            for call in ended:
                worker, number = self._calls.pop(call)
                try:
                    result = call.result()
                except RayTaskError as error:  # the task's own, which would fail again
                    if number is None:
                        self._calls.clear()  # on a cluster that does not suit, nothing is waited for
                    raise error.cause from error
                except RayError as error:
                    if number is None:
                        self._calls.clear()
                        raise _no_worker(error) from error
                    waiting.appendleft(number)
                    self._greet(worker)
                    self._tell(report, warning=LOST)
                    continue
                self._free.append(worker)
                if number is None:
                    self._tell(report)
                else:
                    results[number] = result
        return [results[number] for number in range(len(tasks))]

    def _begin(self, report: Report) -> None:
        """Start the workers, with Ray unless it runs."""
        address = _address()
        start = "starting on this machine" if address == _HERE else f"joining {address}"
        report(Event("Ray", "starting workers", 0, self._count, note=start))
        _connect()
        home = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        asked = share(_nodes(), self._count)
        events = _events().options(num_cpus=0, max_restarts=_ALWAYS, max_task_retries=_ALWAYS, scheduling_strategy=home)
        self._events = events.remote()
        worker = ray.remote(_Worker).options(max_restarts=_ALWAYS, **asked)
        given = str(Path.cwd()), Machine.this(), _threads(asked["num_cpus"])
        workers = [worker.remote(*given) for _ in range(self._count)]
        self._actors = [self._events, *workers]
        for each in workers:
            self._greet(each)

    def _greet(self, worker: Any) -> None:
        """Have a worker answer before it gets a task: one that is started, or again, may wait long for a place."""
        self._calls[worker.greet.options(max_task_retries=_ALWAYS).remote().future()] = worker, None

    def _tell(self, report: Report, warning: str = "") -> None:
        ready = self._count - sum(number is None for _, number in self._calls.values())
        note = f"workers: {ready}" if ready == self._count else ""
        report(Event("Ray", "starting workers", ready, self._count, note=note, warning=warning))


def share(nodes: Sequence[Resources], workers: int) -> dict[str, float]:
    """Return what each of so many workers asks for: a GPU and its share of the cores, or as many cores as there are for all.

    Example:
        >>> share([{"CPU": 8}, {"CPU": 4}], 3)
        {'num_cpus': 4}
        >>> share([{"CPU": 16, "GPU": 4}, {"CPU": 32}], 4)
        {'num_gpus': 1, 'num_cpus': 4}
    """
    of_gpus = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU", 0) >= 1]
    if of_gpus:
        return {"num_gpus": 1, "num_cpus": min(of_gpus)}
    cores = [int(node.get("CPU", 0)) for node in nodes]
    whole = [each for each in range(1, max(cores) + 1) if sum(count // each for count in cores) >= workers]
    if whole:
        return {"num_cpus": whole[-1]}
    on_one = math.ceil(workers / max(1, sum(cores)))
    return {"num_cpus": math.floor(10_000 / on_one) / 10_000}  # Ray counts in ten-thousandths


def _threads(cores: float) -> int:
    """Return how many threads suit so many cores, and no more than the variable of OpenMP allows where that is set."""
    most = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else math.inf
    return int(max(1, min(cores, most)))


def _devices(nodes: Sequence[Resources]) -> tuple[int, int]:
    """Return how many GPUs and cores there are."""
    return sum(int(node.get("GPU", 0)) for node in nodes), sum(int(node.get("CPU", 0)) for node in nodes)


def _nodes() -> list[Resources]:
    """Return what each node has: of Ray's, where it runs or a cluster is named, and otherwise of this machine, where it would."""
    if _address() != _HERE:
        _connect()
    if ray.is_initialized():
        return [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [{"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}]


def _address() -> str:
    return os.environ.get(ADDRESS) or _HERE


def _connect() -> None:
    """Join the cluster that is named, or start Ray on this machine, unless this process has done so.

    Raises:
        UserError: the cluster does not answer, or has another version of Ray or Python.
    """
    if ray.is_initialized():
        return
    address = _address()
    options: dict[str, Any] = {"namespace": _NAMESPACE, "log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == _HERE:
        with _signals_kept():
            ray.init(_HERE, include_dashboard=False, **options)
        return
    inherited = {name: os.environ[name] for name in ("PYTHONPATH", DATA_DIR_VARIABLE) if name in os.environ}
    try:
        _require_answer(address)
        with _signals_kept():
            ray.init(address, runtime_env={"env_vars": inherited}, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster can be joined at {ADDRESS} = {shown(address)}: {first_line(error)}\n"
            f"Give HOST:PORT, as 'ray start --head' prints it, on one of its nodes. Without {ADDRESS} Ray starts on this machine."
        ) from error


def _require_answer(address: str) -> None:
    """Require that somebody listens there, as Ray itself waits for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it is no address.
    """
    if "://" in address:
        raise ValueError("addresses of Ray's client are not taken")
    place = urlsplit(f"//{address}")
    if place.port is not None:
        socket.create_connection((place.hostname, place.port), timeout=_ANSWER).close()


def _no_worker(error: RayError) -> UserError:
    """Return the error for a worker that ends before it answers, with the last line of what it said."""
    said = shown((str(error).strip().splitlines() or [type(error).__name__])[-1])
    return UserError(f"Ray cannot start a worker: {said}\nEvery node needs the packages that this machine has.")


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep this process's own handler of SIGTERM, which Ray replaces, and what is started here from SIGHUP.

    That one ends all processes of a terminal at once; whoever started them ends them in order.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    handler, mask = signal.getsignal(signal.SIGTERM), signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    stopped = False
    try:
        yield
    except SystemExit as error:
        stopped = error.code == signal.SIGTERM  # by the handler of Ray
        if not stopped:
            raise
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if stopped:
        signal.raise_signal(signal.SIGTERM)


def _events() -> Any:
    """Return the actor that keeps events on their way, as tuples: it and they are of no module, so that it need not load torch."""

    class Events:
        def __init__(self) -> None:
            self._kept: list[tuple[Any, ...]] = []

        def put(self, event: tuple[Any, ...]) -> None:
            self._kept.append(event)

        def take(self) -> list[tuple[Any, ...]]:
            kept, self._kept = self._kept, []
            return kept

    return ray.remote(Events)


class _Worker:
    """Does tasks, if this machine is like the one that asks for them."""

    def __init__(self, directory: str, asking: Machine, threads: int) -> None:
        torch.set_num_threads(threads)
        self._problem = ""  # an actor whose start fails would only say that it did
        try:
            os.chdir(directory)
        except OSError as error:
            self._problem = (
                f"{directory} on {platform.node()}: {error.strerror}: results are files that all nodes see: give the command "
                "in a directory that is there on each of them"
            )
        else:
            if how := asking.unlike(Machine.this()):
                self._problem = f"nodes differ, and so would verdicts: {how}: install the same on all of them"

    def greet(self) -> None:
        if self._problem:
            raise UserError(self._problem)

    def perform(self, task: Task, events: Any) -> Any:
        self.greet()  # it may have been started again since
        sent: list[Any] = []

        def send(event: Event) -> None:
            sent[:] = [events.put.remote(astuple(event))]

        try:
            return task(Throttled(send))
        finally:
            if sent:
                ray.wait(sent)  # all events are there before the result
