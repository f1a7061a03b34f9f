"""`aa-fast` over `aa-native` and over pyautoattack: seconds of a thread and passes, padding included, on the same digits"""

import statistics
import time
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.audit import Task, cnn, fit, mlp
from benchmarks.passes import BATCH, EXAMPLES, SEED, Attack, Counted, native, upstream
from robust_lowrank import data
from robust_lowrank.evaluation import evaluate

KEY, RATIOS = ("network", "eps"), ("seconds over aa-native", "seconds over AutoAttack", "passes over AutoAttack")
ROUNDS = 1


def run() -> pd.DataFrame:
    """Return a row a network and radius: what each leaves robust, the limit of `aa-fast`, and the ratios."""
    torch.set_num_threads(1)
    task, subjects = _subjects()
    x, y = task.test_x, task.test_y
    return pd.DataFrame(
        {"network": name, "examples": len(y), "eps": eps} | _compare(model, x, y, eps) for name, model, eps in subjects
    )


def _subjects() -> tuple[Task, list[tuple[str, nn.Module, float]]]:
    digits = data.load("digits")
    task = Task(digits.train_x, digits.train_y, digits.test_x[:EXAMPLES], digits.test_y[:EXAMPLES])
    defended = fit(cnn(), task, adversarial=0.15, epochs=12)
    return task, [
        ("cnn", fit(cnn(), task), 0.1),
        ("mlp", fit(mlp(), task), 0.05),
        ("cnn, adversarial", defended, 0.15),
        ("cnn, adversarial", defended, 0.2),
        ("mlp, adversarial", fit(mlp(), task, adversarial=0.1, epochs=12), 0.1),
    ]


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
