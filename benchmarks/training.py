"""what each method reaches in a whole training, its learning rate chosen from one grid (mean ± standard deviation of 3 seeds)"""

import hashlib
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import robust_lowrank
from robust_lowrank import (
    DLRT,
    RGD,
    TDLRT,
    CondLR,
    GeoLoRA,
    LowRankOptimizer,
    RobustDLRT,
    UserError,
    Vanilla,
    compress,
    export,
    models,
)
from robust_lowrank.compression import count_parameters
from robust_lowrank.data import load, unit_range
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import Method

SEEDS = (0, 1, 2)
OUT = Path("runs/benchmarks/training.jsonl")  # one line a training; those of this version of the package are not repeated


class Row(NamedTuple):
    """A method; `plain`: what it starts from, as a chain of torch's own layers."""

    method: Method | None
    step: Literal["exact", "amortised"] = "exact"
    plain: bool = False


METHODS = {
    "dense": Row(None),
    "plain U V^T": Row(Vanilla()),
    "plain Tucker": Row(TDLRT(), plain=True),
    "rgd": Row(RGD()),
    "condlr tau=0.1": Row(CondLR(tau=0.1)),
    "dlrt": Row(DLRT()),
    "dlrt tol=0.03": Row(DLRT(tol=0.03), "amortised"),
    "tdlrt": Row(TDLRT(), "amortised"),
    "geolora": Row(GeoLoRA()),
    "robust-dlrt": Row(RobustDLRT(), "amortised"),
}
NEED_KERNELS = ("plain Tucker",)
INNER = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adamw": (torch.optim.AdamW, {})}


class Split(NamedTuple):
    """Images and labels to train on, to choose learning rates by, and to report on."""

    train: tuple[Tensor, Tensor]
    choice: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A network and its images; the learning rate falls to zero as a cosine."""

    data: str
    network: str
    rank: int | float
    grids: dict[str, tuple[float, ...]]  # learning rates, by the inner optimizer
    train: int
    choice: int  # the images after those to train on
    epochs: int
    retrained: bool = False  # with the images to choose by, once the learning rate is chosen


SMALL = {"sgd": (0.03, 0.1, 0.3), "adamw": (3e-3, 1e-2, 3e-2)}
TASKS = {
    "digits MLP": Task("digits", "mlp", 8, SMALL, 1100, 197, 10, retrained=True),
    "demo CNN": Task("digits", "cnn", 0.5, SMALL, 1100, 197, 12, retrained=True),
    "MNIST LeNet5": Task("mnist", "lenet5", 0.2, {"adamw": (3e-3, 1e-2)}, 2000, 1000, 3),
    "CIFAR-10, 4 convolutions": Task("cifar10", "four-convolutions", 0.3, {"adamw": (1e-3, 3e-3)}, 2000, 1000, 7),
    "CIFAR-10, VGG16 of a quarter's width": Task("cifar10", "vgg16-quarter", 0.3, {"adamw": (5e-4, 1e-3)}, 3000, 1000, 5),
}
BATCH = 64
TESTED = 1000  # images at most


def four_convolutions() -> nn.Sequential:
    """Return a network for images of 32 x 32 without normalisation."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 64, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def contenders(task: Task) -> list[str]:
    """Return the methods that a network is trained by: one without kernels has no Tucker factors."""
    return [method for method in METHODS if task.network != "mlp" or method not in NEED_KERNELS]


def network(task: Task) -> tuple[nn.Module, str]:
    """Return a new network, and the name of its last layer, which stays dense."""
    if task.network == "four-convolutions":
        return four_convolutions(), "13"
    shape = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[task.data]
    built = models.build(task.network, input_shape=shape, num_classes=10)
    return built, models.classifier(built)


@cache
def split(data: str, train: int, choice: int, *, standard: bool) -> Split:
    """Return the images of a task."""
    whole = load(data)
    images, tests = unit_range(whole.train_images[: train + choice]), unit_range(whole.test_images[:TESTED])
    if standard:
        mean, scale = images[:train].mean((0, 2, 3), keepdim=True), images[:train].std((0, 2, 3), keepdim=True)
        images, tests = (images - mean) / scale, (tests - mean) / scale
    labels = whole.train_y[: train + choice]
    return Split((images[:train], labels[:train]), (images[train:], labels[train:]), (tests, whole.test_y[:TESTED]))


def images_of(task: Task) -> Split:
    """Return the images of a task; those of the network without normalisation are standardised."""
    return split(task.data, task.train, task.choice, standard=task.network == "four-convolutions")


class Trial(NamedTuple):
    """One training; `final` with the images to choose by, if the task wants that."""

    task: str
    optimizer: str
    method: str
    lr: float
    seed: int
    final: bool


def train(trial: Trial) -> dict[str, object]:
    """Train a network and return what it reached."""
    torch.set_num_threads(1)
    task = TASKS[trial.task]
    images = images_of(task)
    torch.manual_seed(trial.seed)
    net, last = network(task)
    contender = METHODS[trial.method]
    if contender.method is not None:
        compress(net, method=contender.method, rank=task.rank, exclude=[last.replace(".", r"\.")], init="kaiming")
    if contender.plain:
        net = export(net, to="factors").requires_grad_(True)
    kind, inner = INNER[trial.optimizer]
    optimizer = LowRankOptimizer(net, kind, lr=trial.lr, step=contender.step, **inner)
    x, y = images.train
    if trial.final:
        x, y = torch.cat([x, images.choice[0]]), torch.cat([y, images.choice[1]])
    row: dict[str, object] = {**trial._asdict(), "choice": 0.0, "test": 0.0, "inference": 0}
    began = time.process_time()
    try:
        fit(net, optimizer, x, y, task.epochs, trial.seed)
    except FactorisationError:  # it diverged
        return row
    net.eval()
    reached = {"choice": accuracy(net, *images.choice), "test": accuracy(net, *images.test)}
    return row | reached | {"inference": count_parameters(net).inference, "seconds": time.process_time() - began}


def fit(net: nn.Module, optimizer: LowRankOptimizer, x: Tensor, y: Tensor, epochs: int, seed: int) -> None:
    """Train a network to the end."""
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, math.ceil(len(y) / BATCH) * epochs)
    order = torch.Generator().manual_seed(seed)
    net.train()
    for _ in range(epochs):
        for index in torch.randperm(len(y), generator=order).split(BATCH):
            optimizer.step(closure(net, optimizer, x[index], y[index]))
            schedule.step()
    optimizer.finish()


def closure(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """Return what evaluates the loss of a batch."""

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        return loss

    return evaluate


@torch.no_grad()
def logits(net: nn.Module, x: Tensor) -> Tensor:
    """Return a network's logits, in batches."""
    return torch.cat([net(part) for part in x.split(500)])


def accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the accuracy in per cent."""
    return 100 * float((logits(net, x).argmax(1) == y).double().mean())


def sources() -> str:
    """Return a digest of the package's sources and of this file: results of others are not taken for results of these."""
    files = sorted(Path(robust_lowrank.__file__).parent.rglob("*.py"))
    rooms, modules = {"methods", "optim", "layers"}, ("linalg.py", "initialisation.py")
    parts = [part for part in files if rooms & set(part.parts) or part.name in modules]
    return hashlib.sha256(b"".join(part.read_bytes() for part in [*parts, Path(__file__)])).hexdigest()[:16]


def candidates(task: str, optimizer: str, method: str, lr: float) -> list[Trial]:
    """Return the trainings by which a learning rate is chosen: one seed alone may hide that others diverge."""
    return [Trial(task, optimizer, method, lr, seed, final=False) for seed in SEEDS]


class Results:
    """What trainings reached, in a file that grows by a line as each ends."""

    def __init__(self, path: Path) -> None:
        self.path, self.sources = path, sources()
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        self.rows = {Trial(*(row[name] for name in Trial._fields)): row for row in rows if row["sources"] == self.sources}

    def add(self, trial: Trial, row: dict[str, object]) -> None:
        """Keep a result."""
        self.rows[trial] = row | {"sources": self.sources}
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[trial]) + "\n")

    def choosing(self, task: str, optimizer: str, method: str) -> tuple[float, list[Trial]]:
        """Return the rate that is ahead on the images to choose by, and the trainings that are to say whether it stays so.

        Every rate is tried with the first seed. The others are spent on the rate whose mean is the best so far: one that is chosen
        has all of them, and no other has a better mean, of all or of its first.
        """
        grid = {lr: candidates(task, optimizer, method, lr) for lr in TASKS[task].grids[optimizer]}
        first = [trials[0] for trials in grid.values() if trials[0] not in self.rows]
        if first:
            return next(iter(grid)), first
        known = {lr: [self.rows[trial]["choice"] for trial in trials if trial in self.rows] for lr, trials in grid.items()}
        ahead = max(known, key=lambda lr: sum(known[lr]) / len(known[lr]))
        return ahead, [trial for trial in grid[ahead] if trial not in self.rows]

    def best(self, task: str, optimizer: str, method: str) -> float | None:
        """Return the chosen rate of the grid; None before it is known."""
        ahead, missing = self.choosing(task, optimizer, method)
        return None if missing else ahead

    def reported(self, task: str, optimizer: str, method: str, lr: float) -> list[Trial]:
        """Return the trainings whose mean is reported."""
        return [Trial(task, optimizer, method, lr, seed, TASKS[task].retrained) for seed in SEEDS]

    def wanted(self, tasks: list[str]) -> Iterator[Trial]:
        """Yield the trainings that are still to be run: first those that choose the learning rates."""
        for task in tasks:
            for optimizer in TASKS[task].grids:
                for method in contenders(TASKS[task]):
                    lr, missing = self.choosing(task, optimizer, method)
                    yield from missing or (each for each in self.reported(task, optimizer, method, lr) if each not in self.rows)


def tasks_here() -> list[str]:
    """Return the tasks whose images are here; say which are not."""
    found = []
    for name, task in TASKS.items():
        try:
            images_of(task)
            found.append(name)
        except UserError as error:
            print(f"{name} is left out: {error}")
    return found


def run() -> pd.DataFrame:
    """Run what has not been run yet, two trainings at a time on two cores, and return the table."""
    results, tasks = Results(OUT), tasks_here()
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        while trials := list(results.wanted(tasks)):
            jobs = {pool.submit(train, trial): trial for trial in trials}
            for done in as_completed(jobs):
                results.add(jobs[done], done.result())
    return table(results, tasks)


def table(results: Results, tasks: list[str]) -> pd.DataFrame:
    """Return a row for each method, a column for each task and optimizer: test accuracy, the learning rate below it."""
    columns = {}
    for task in tasks:
        for optimizer in TASKS[task].grids:
            cells = []
            for method in METHODS:
                if method not in contenders(TASKS[task]):
                    cells.append("–")
                    continue
                lr = results.best(task, optimizer, method)
                assert lr is not None
                rows = [results.rows[trial] for trial in results.reported(task, optimizer, method, lr)]
                tested = pd.Series([row["test"] for row in rows])
                size = sum(row["inference"] for row in rows) / len(rows)
                cells.append(f"{tested.mean():.1f} ± {tested.std():.1f} ({lr:g}; {size / 1000:.0f}k)")
            columns[f"{task}, {optimizer}"] = cells
    return pd.DataFrame({"method": list(METHODS), **columns})
