"""Adapters of one size on pretrained networks, beside peft's: `python -m experiments.adapters --help`."""

import argparse
import copy
import json
import logging
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import medians
from experiments.adapter_methods import HEAD_RATE, METHODS, Adapted
from experiments.adapter_tasks import TASKS, Part, Task
from robust_lowrank import LowRankOptimizer, UserError
from robust_lowrank.errors import first_line
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.provenance import machine

SEEDS = (0, 1, 2)
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


def batches(task: Task, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of the training part without end; those of 16 batches are put together by length."""
    order = torch.Generator().manual_seed(seed)
    while True:
        for some in torch.randperm(len(task.train.y), generator=order).split(16 * task.batch):
            ordered = some[task.train.lengths[some].argsort(stable=True)].split(task.batch)
            for i in torch.randperm(len(ordered), generator=order).tolist():
                yield task.prepare(task.train.x[ordered[i]]), task.train.y[ordered[i]]


def start(task: Task, method: str, rate: float, seed: int, steps: int) -> Adapted:
    """Return a copy of the task's network with a new head and the method's updates."""
    torch.manual_seed(seed)
    network = copy.deepcopy(task.network)
    network.head.reset_parameters()
    return METHODS[method].wrap(task, network, rate, steps)


def stepper(adapted: Adapted, steps: int, stream: Iterator[tuple[Tensor, Tensor]]) -> Callable[[], object]:
    """Return what takes a training step: the rates rise over a tenth of the steps, and fall to zero as a cosine."""
    rise = max(1, steps // 10)

    def factor(step: int) -> float:
        return min((step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * max(0, step - rise) / (steps - rise)))

    schedule = torch.optim.lr_scheduler.LambdaLR(adapted.optimizer, factor)
    adapted.network.train()

    def step() -> None:
        adapted.optimizer.zero_grad()
        adapted.network(*next(stream)).loss.backward()
        adapted.optimizer.step()
        adapted.after(schedule.last_epoch)
        schedule.step()

    return step


@torch.no_grad()
def judge(task: Task, network: nn.Module, part: Part) -> tuple[float, float]:
    """Return the accuracy in per cent and the cross-entropy on a part."""
    network.eval()
    right, loss = 0, 0.0
    for some in part.lengths.argsort(stable=True).split(100):
        logits = network(task.prepare(part.x[some]), part.y[some]).logits
        right += int((logits.argmax(1) == part.y[some]).sum())
        loss += float(cross_entropy(logits, part.y[some], reduction="sum"))
    return 100 * right / len(part.y), loss / len(part.y)


@dataclass(frozen=True)
class Cell:
    """One training."""

    task: str
    method: str
    rate: float
    seed: int
    steps: int


class Results:
    """Trainings that are finished, one line of JSON each in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Cell, dict[str, Any]] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
            try:
                row = json.loads(line)
                self.rows[Cell(*(row[field.name] for field in fields(Cell)))] = row
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number}, is no training of this experiment: delete it, and that one is repeated"
                ) from error

    def of(self, task: Task, cell: Cell) -> dict[str, Any]:
        """Return what a training gave, which is done unless the file has it."""
        if cell not in self.rows:
            self.rows[cell] = asdict(cell) | train(task, cell)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self.rows[cell]) + "\n")
            print(json.dumps(self.rows[cell]), flush=True)
        return self.rows[cell]


def train(task: Task, cell: Cell) -> dict[str, Any]:
    """Train one network and return its accuracies and the size of its updates."""
    begun = time.perf_counter()
    adapted = start(task, cell.method, cell.rate, cell.seed, cell.steps)
    step = stepper(adapted, cell.steps, batches(task, cell.seed))
    for _ in range(cell.steps):
        step()
    if isinstance(adapted.optimizer, LowRankOptimizer):
        adapted.optimizer.finish()
    validation, loss = judge(task, adapted.network, task.validation)
    found = {"validation": validation, "validation_loss": loss, "test": judge(task, adapted.network, task.test)[0]}
    ranks = [layer.rank for _, layer in named_factored_layers(adapted.network)]
    return found | {"parameters": adapted.size(), "ranks": ranks, "seconds": time.perf_counter() - begun, "machine": machine()}


def best_rate(method: str, run: Callable[[str, float, int], dict[str, Any]]) -> float:
    """Return the rate of the least cross-entropy on validation data with the first seed: both its neighbours give a greater one."""
    rate = METHODS[method].rate
    if rate is None:
        return HEAD_RATE
    if isinstance(rate, str):
        return best_rate(rate, run)
    while True:
        place = RATES.index(rate)
        around = RATES[max(0, place - 1) : place + 2]
        best = min(around, key=lambda each: run(method, each, SEEDS[0])["validation_loss"])
        if best == rate:
            return rate
        rate = best


def cost(task: Task, steps: int, rounds: int) -> dict[str, float]:
    """Return each method's median seconds a step, all of them in turn on the same batches."""
    step = {name: stepper(start(task, name, RATES[2], 0, steps), steps, batches(task, 0)) for name in METHODS}
    return medians(step, rounds=rounds)


def report(name: str, task: Task, results: Results, steps: int, rounds: int) -> pd.DataFrame:
    """Return a row a method: its rate, test accuracy over the seeds, size of the updates, and seconds a step relative to LoRA."""

    def run(method: str, rate: float, seed: int) -> dict[str, Any]:
        return results.of(task, Cell(name, method, rate, seed, steps))

    rows = []
    for method in METHODS:
        rate = best_rate(method, run)
        found = [run(method, rate, seed) for seed in SEEDS]
        accuracies = [row["test"] for row in found]
        sizes = [row["parameters"] for row in found]
        reached = f"{statistics.mean(accuracies):.1f} ± {statistics.stdev(accuracies):.1f}"
        validation = f"{statistics.mean(row['validation'] for row in found):.1f}"
        rows.append(
            {
                "method": method,
                "rate": rate,
                "test, %": reached,
                "validation, %": validation,
                "parameters": round(statistics.mean(sizes)),
            }
        )
    seconds = cost(task, steps, rounds)
    for row in rows:
        row["time of a step"] = f"{seconds[row['method']] / seconds['LoRA']:.2f}"
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a task and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument(
        "--data-dir", type=Path, required=True, help="train.tsv and dev.tsv of SST-2, or what CIFAR-10 is loaded from"
    )
    parser.add_argument("--weights", type=Path, required=True, help="MiniLM's folder, or the ViT's file of safetensors")
    parser.add_argument("--results", type=Path, required=True, help="a file of JSON lines: trainings that it has are not repeated")
    parser.add_argument("--steps", type=int, default=200, help="of each training (default: 200)")
    parser.add_argument("--rounds", type=int, default=30, help="steps of each method that are timed (default: 30)")
    options = parser.parse_args(arguments)
    if not options.weights.exists():
        parser.error(f"{options.weights} does not exist: --weights is MiniLM's folder, or the ViT's file of safetensors")
    print(f"{machine()}, torch {torch.__version__}", flush=True)
    try:
        task = TASKS[options.task](options.data_dir, options.weights)
        table = report(options.task, task, Results(options.results), options.steps, options.rounds)
    except (UserError, ImportError, OSError) as error:  # of transformers and timm where files are wrong
        parser.error(first_line(error))
    print(table.to_markdown(index=False))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    main()
