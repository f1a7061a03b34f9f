"""`aa-fast` over `aa-native` and over pyautoattack: seconds of a thread and passes, padding included, on the same digits"""

import statistics
import time
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.audit import Task, cnn, fit, mlp
from benchmarks.passes import BATCH, EXAMPLES, SEED, Attack, Counted, enlarged, native, upstream
from robust_lowrank import data, models
from robust_lowrank.evaluation import evaluate

KEY, RATIOS = ("network", "eps"), ("seconds over aa-native", "seconds over AutoAttack", "passes over AutoAttack")
ROUNDS = 1


class Subject(NamedTuple):
    """A network, the images that it is attacked on, and the radius."""

    name: str
    model: nn.Module
    task: Task
    eps: float


def run() -> pd.DataFrame:
    """Return a row a network and radius: what each leaves robust, the limit of `aa-fast`, and the ratios."""
    torch.set_num_threads(1)
    rows = []
    for name, model, task, eps in _subjects():
        found = _compare(model.requires_grad_(False), task.test_x, task.test_y, eps)
        rows.append({"network": name, "examples": len(task.test_y), "eps": eps} | found)
    return pd.DataFrame(rows)


def _subjects() -> list[Subject]:
    digits = data.load("digits")
    small = Task(digits.train_x, digits.train_y, digits.test_x[:EXAMPLES], digits.test_y[:EXAMPLES])
    large = Task(enlarged(small.x), small.y, enlarged(small.test_x[:100]), small.test_y[:100])
    defended = fit(cnn(), small, adversarial=0.15, epochs=12)
    return [
        Subject("cnn, 8 × 8", fit(cnn(), small), small, 0.1),
        Subject("mlp, 8 × 8", fit(mlp(), small), small, 0.05),
        Subject("cnn, 8 × 8, adversarial", defended, small, 0.15),
        Subject("cnn, 8 × 8, adversarial", defended, small, 0.2),
        Subject("mlp, 8 × 8, adversarial", fit(mlp(), small, adversarial=0.1, epochs=12), small, 0.1),
        Subject("lenet5, 28 × 28, adversarial", _lenet5(large), large, 0.1),
    ]


def _lenet5(task: Task) -> nn.Module:
    torch.manual_seed(0)
    model = models.build("lenet5", input_shape=(1, 28, 28), num_classes=10)
    return fit(model, task, adversarial=0.15, epochs=4)


def _compare(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> dict[str, Any]:
    """Measure the three in turn, several times."""
    attacks: dict[str, Attack] = {"AutoAttack": upstream(y, eps)}
    attacks |= {name: native(name, y, eps) for name in ("aa-native", "aa-fast")}
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    passes, robust = dict.fromkeys(attacks, 0), dict.fromkeys(attacks, 0.0)
    for _ in range(ROUNDS):
        for name, attack in attacks.items():
            counted, begun = Counted(model), time.process_time()
            held, _ = attack(counted, x)
            seconds[name].append(time.process_time() - begun)
            passes[name], robust[name] = counted.passes, 100 * float(held.double().mean())
    worst = evaluate(model, x, y, suite="aa-fast", eps=eps, seed=SEED, batch_size=BATCH, audit=False).record.accuracies[-1]

    def over(other: str) -> float:
        return round(statistics.median(a / b for a, b in zip(seconds["aa-fast"], seconds[other], strict=True)), 2)

    return {
        "robust, %: aa-fast, aa-native, AutoAttack": ", ".join(f"{robust[name]:.1f}" for name in reversed(attacks)),
        "in full at least, %": round(100 * (worst.least or 0.0), 1),
        "seconds over aa-native": over("aa-native"),
        "seconds over AutoAttack": over("AutoAttack"),
        "passes over aa-native": round(passes["aa-fast"] / passes["aa-native"], 2),
        "passes over AutoAttack": round(passes["aa-fast"] / passes["AutoAttack"], 2),
    }
