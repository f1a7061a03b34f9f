"""passes that a network computes, padding included, and seconds of a thread: ours over pyautoattack's and torchattacks' (digits)"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.audit import Task, cnn, fit
from robust_lowrank import data, models
from robust_lowrank.evaluation import PGD, Suite, evaluate

EXAMPLES, BATCH, SEED = 300, 256, 0
KEY, RATIOS = ("network", "eps", "attack"), ("passes", "seconds")
PGD_STEPS, RESTARTS, RELATIVE_STEP = 20, 10, 2.5


class Tally:
    """A number that all copies of its owner add to."""

    def __init__(self) -> None:
        self.rows = 0

    def add(self, rows: int) -> None:
        self.rows += rows

    def __deepcopy__(self, memo: Any) -> "Tally":
        return self


class Counted(nn.Module):
    """A network that counts the rows of its forward and backward passes, and those of its fast form, which is a copy."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.tally = model, Tally()

    @property
    def passes(self) -> int:
        return self.tally.rows

    def forward(self, x: Tensor) -> Tensor:
        self.tally.add(len(x))
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.tally.add(len(gradient)))
        return logits


def run() -> pd.DataFrame:
    """Return a row a network, radius and attack: robust accuracies, and ours over theirs in passes and seconds."""
    torch.set_num_threads(1)
    rows = []
    for name, (model, x, y, radii, rounds) in subjects().items():
        for eps in radii:
            for attack, (ours, theirs) in {
                "AutoAttack": (native("aa-native", y, eps), upstream(y, eps)),
                f"PGD-{PGD_STEPS}x{RESTARTS}": _pgds(y, eps),
            }.items():
                found = _compare(model, x, y, ours, theirs, rounds)
                rows.append({"network": name, "examples": len(y), "eps": eps, "attack": attack} | found)
    return pd.DataFrame(rows)


def subjects() -> dict[str, tuple[nn.Module, Tensor, Tensor, tuple[float, ...], int]]:
    """Return networks, trained plainly and adversarially, with images, radii and repeats."""
    small = data.load("digits")
    task = Task(small.train_x, small.train_y, small.test_x[:EXAMPLES], small.test_y[:EXAMPLES])
    large = Task(enlarged(task.x), task.y, enlarged(task.test_x[:100]), task.test_y[:100])

    def lenet5() -> nn.Module:
        torch.manual_seed(0)
        return models.build("lenet5", input_shape=(1, 28, 28), num_classes=10)

    found = {
        "cnn, 8 × 8": (fit(cnn(), task), task, (0.15, 0.3), 3),
        "cnn, 8 × 8, adversarial": (fit(cnn(), task, adversarial=0.15, epochs=12), task, (0.1, 0.2), 1),
        "lenet5, 28 × 28": (fit(lenet5(), large, epochs=3), large, (0.1, 0.2), 1),
        "lenet5, 28 × 28, adversarial": (fit(lenet5(), large, adversarial=0.15, epochs=4), large, (0.2,), 1),
    }
    return {name: (m.requires_grad_(False), task.test_x, task.test_y, *rest) for name, (m, task, *rest) in found.items()}


def enlarged(x: Tensor) -> Tensor:
    """Return images of 28 × 28."""
    return functional.interpolate(x, size=28, mode="bilinear")


Attack = Callable[[nn.Module, Tensor], tuple[Tensor, int]]  # which examples it leaves robust, and the passes of examples, if known


def upstream(y: Tensor, eps: float) -> Attack:
    """Return AutoAttack standard as its package runs it."""
    import pyautoattack

    def theirs(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
        attack = pyautoattack.AutoAttack(model, norm="Linf", eps=eps, seed=SEED, version="standard", device=torch.device("cpu"))
        attack.verbose = False
        return _right(model, attack.run_standard_evaluation(x, y, batch_size=BATCH)[0], y), 0

    return theirs


def _pgds(y: Tensor, eps: float) -> tuple[Attack, Attack]:
    import torchattacks

    def theirs(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
        torch.manual_seed(SEED)
        step = RELATIVE_STEP * eps / PGD_STEPS
        once = [torchattacks.PGD(model, eps=eps, alpha=step, steps=PGD_STEPS, random_start=True) for _ in range(RESTARTS)]
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        return torch.cat([_right(model, torchattacks.MultiAttack(once)(*part), part[1]) for part in parts]), 0

    pgd = PGD(steps=PGD_STEPS, relative_step=RELATIVE_STEP, restarts=RESTARTS)
    return native(Suite(name="pgd", eps=(eps,), attacks=(pgd,)), y, eps), theirs


def native(suite: str | Suite, y: Tensor, eps: float) -> Attack:
    """Return a suite of ours, without the audit."""

    def ours(model: nn.Module, x: Tensor) -> tuple[Tensor, int]:
        verdicts = evaluate(model, x, y, suite=suite, eps=eps, seed=SEED, batch_size=BATCH, audit=False).verdicts
        held = torch.tensor((verdicts["verdict"] == "robust").to_numpy())
        return held, int(verdicts[["forwards", "backwards"]].to_numpy().sum())

    return ours


@torch.no_grad()
def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(dim=1) == y


def _compare(model: nn.Module, x: Tensor, y: Tensor, ours: Attack, theirs: Attack, rounds: int) -> dict[str, Any]:
    """Return what both leave robust, in percent, and the ratios of passes and of processor seconds, measured in turn."""
    seconds: list[list[float]] = [[], []]
    robust, passes, useful = [0.0, 0.0], [0, 0], [0, 0]
    for _ in range(rounds):
        for who, attack in enumerate((ours, theirs)):
            counted, begun = Counted(model), time.process_time()
            held, useful[who] = attack(counted, x)
            seconds[who].append(time.process_time() - begun)
            robust[who], passes[who] = 100 * float(held.double().mean()), counted.passes
    return {
        "robust, %: ours, theirs": f"{robust[0]:.1f}, {robust[1]:.1f}",
        "passes": round(passes[0] / passes[1], 2),
        "passes without padding": round(useful[0] / passes[1], 2),
        "seconds": round(statistics.median(a / b for a, b in zip(*seconds, strict=True)), 2),
    }
