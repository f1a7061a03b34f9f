"""How large updates of LoRA and GeoLoRA become, and on how few features: `python -m experiments.adapter_updates --help`."""

import argparse
import statistics
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from experiments.adapter_tasks import TASKS, Task
from experiments.adapters import batches, judge, start, stepper
from robust_lowrank import LowRankOptimizer
from robust_lowrank.layers import named_factored_layers

RATES = {"sst2": {"LoRA": 1e-3, "GeoLoRA": 3e-4}, "cifar10": {"LoRA": 1e-3, "GeoLoRA": 3e-5}}  # the best ones
FEW = 0.02  # of the rows or columns


def share(energy: Tensor) -> float:
    """Return which part of a sum its largest terms make, FEW of them."""
    largest = energy.sort(descending=True).values[: max(1, round(FEW * len(energy)))]
    return float(largest.sum() / energy.sum())


@torch.no_grad()
def row(task: Task, method: str, rate: float, steps: int) -> dict[str, object]:
    """Train once with seed 0 and describe the updates, means over the layers."""
    adapted = start(task, method, rate, 0, steps)
    step = stepper(adapted, steps, batches(task, 0))
    with torch.enable_grad():
        for _ in range(steps):
            step()
    assert isinstance(adapted.optimizer, LowRankOptimizer)
    adapted.optimizer.finish()
    changes = [layer.weight_change().double() for _, layer in named_factored_layers(adapted.network)]
    return {
        "method": method,
        "rate": rate,
        "validation loss": f"{judge(task, adapted.network, task.validation)[1]:.3f}",
        "Frobenius norm": f"{statistics.mean(float(change.norm()) for change in changes):.3f}",
        "in 2 % of the rows": f"{statistics.mean(share(change.square().sum(1)) for change in changes):.1%}",
        "in 2 % of the columns": f"{statistics.mean(share(change.square().sum(0)) for change in changes):.1%}",
    }


def main() -> None:
    """Print the table of a task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    task = TASKS[options.task](options.data_dir, options.weights)
    rows = [row(task, method, rate, options.steps) for method, rate in RATES[options.task].items()]
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
