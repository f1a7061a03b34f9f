"""curves of accuracy against five eps by one search: passes, padding included, and seconds over one eps and over all"""

import statistics
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.audit import MASKS, Behind, Task, cnn, fit, mlp
from benchmarks.passes import BATCH, SEED, Counted, enlarged
from robust_lowrank import data, models
from robust_lowrank.evaluation import APGD, PGD, Curve, Suite, evaluate
from robust_lowrank.evaluation.attacks.base import Attack

KEY = ("network", "norm")
RATIOS = ("seconds over APGD at one eps", "seconds over PGD and APGD at one eps", "seconds over PGD and APGD at all")
ROUNDS, EXAMPLES = 3, 200
PAIR: tuple[Attack, ...] = (PGD(steps=40), APGD(examples="survivors"))


class Subject(NamedTuple):
    """A network with its images, and five radii, of which the middle one breaks about half of what it gets right."""

    name: str
    model: nn.Module
    task: Task
    norm: Literal["Linf", "L2", "L1"]
    radii: tuple[float, ...]


def run() -> pd.DataFrame:
    """Return a row a network and norm: what is left at each eps, and the ratios."""
    torch.set_num_threads(1)
    return pd.DataFrame([{"network": each.name, "norm": each.norm} | _compare(each) for each in _subjects()])


def _subjects() -> list[Subject]:
    digits = data.load("digits")
    small = Task(digits.train_x, digits.train_y, digits.test_x[:EXAMPLES], digits.test_y[:EXAMPLES])
    large = Task(enlarged(small.x), small.y, enlarged(small.test_x[:100]), small.test_y[:100])
    plain, defended, dense = fit(cnn(), small), fit(cnn(), small, adversarial=0.15, epochs=12), fit(mlp(), small)
    firm, lenet5 = fit(mlp(), small, adversarial=0.1, epochs=12), fit(_lenet5(), large, adversarial=0.15, epochs=4)
    return [
        Subject("cnn, 8 × 8", plain, small, "Linf", (0.03, 0.06, 0.09, 0.12, 0.16)),
        Subject("cnn, 8 × 8", plain, small, "L2", (0.15, 0.3, 0.45, 0.6, 0.8)),
        Subject("mlp, 8 × 8", dense, small, "Linf", (0.03, 0.06, 0.1, 0.13, 0.16)),
        Subject("cnn, 8 × 8, adversarial", defended, small, "Linf", (0.05, 0.1, 0.15, 0.2, 0.25)),
        Subject("cnn, 8 × 8, adversarial", defended, small, "L2", (0.2, 0.4, 0.65, 0.9, 1.2)),
        Subject("mlp, 8 × 8, adversarial", firm, small, "Linf", (0.05, 0.1, 0.15, 0.2, 0.25)),
        Subject("mlp, 8 × 8, adversarial", firm, small, "L1", (0.6, 1.2, 2.0, 2.8, 4.0)),
        Subject("cnn, shattered", Behind(plain, MASKS["shattered"]).eval(), small, "Linf", (0.03, 0.06, 0.09, 0.12, 0.16)),
        Subject(
            "cnn, rounded frequencies",
            Behind(plain, MASKS["rounded frequencies"]).eval(),
            small,
            "Linf",
            (0.03, 0.06, 0.09, 0.12, 0.16),
        ),
        Subject("lenet5, 28 × 28, adversarial", lenet5, large, "Linf", (0.03, 0.06, 0.09, 0.12, 0.16)),
    ]


def _lenet5() -> nn.Module:
    torch.manual_seed(0)
    return models.build("lenet5", input_shape=(1, 28, 28), num_classes=10)


def _compare(subject: Subject) -> dict[str, Any]:
    """Measure all ways in turn, several times."""
    radii, middle = subject.radii, subject.radii[2:3]
    each: tuple[Attack, ...] = tuple(Curve(name=f"at-{eps}", eps=(eps,)) for eps in radii)
    ways: dict[str, tuple[Sequence[Attack], tuple[float, ...]]] = {
        "at once": ((Curve(),), radii),
        "APGD at one eps": ((APGD(),), middle),
        "PGD and APGD at one eps": (PAIR, middle),
        "PGD and APGD at all": (PAIR, radii),
        "the same at each": (each, radii),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    passes, robust = dict.fromkeys(ways, 0), dict.fromkeys(ways, torch.zeros(0))
    for _ in range(ROUNDS):
        for name, (attacks, eps) in ways.items():
            counted, begun = Counted(subject.model.requires_grad_(False)), time.process_time()
            robust[name] = _accuracies(counted, subject, attacks, eps)
            seconds[name].append(time.process_time() - begun)
            passes[name] = counted.passes

    def over(other: str) -> dict[str, float]:
        ratio = statistics.median(a / b for a, b in zip(seconds["at once"], seconds[other], strict=True))
        return {f"passes over {other}": round(passes["at once"] / passes[other], 2), f"seconds over {other}": round(ratio, 2)}

    shown = {name: ", ".join(f"{value:.1f}" for value in robust[name].tolist()) for name in ways}
    return {
        "examples": len(subject.task.test_y),
        "eps": ", ".join(f"{eps:g}" for eps in radii),
        "robust, %, at once": shown["at once"],
        "robust, %, the same at each": shown["the same at each"],
        "robust, %, PGD and APGD at all": shown["PGD and APGD at all"],
        "implied, at most points too many": round(float((robust["at once"] - robust["the same at each"]).max()), 1),
        **over("APGD at one eps"),
        **over("PGD and APGD at one eps"),
        **over("PGD and APGD at all"),
    }


def _accuracies(model: nn.Module, subject: Subject, attacks: Sequence[Attack], radii: tuple[float, ...]) -> Tensor:
    """Return the worst case at each eps, in percent; what breaks an example within a smaller one breaks it within larger ones."""
    suite = Suite(name="curves", norm=subject.norm, eps=radii, attacks=tuple(attacks))
    x, y = subject.task.test_x, subject.task.test_y
    verdicts = evaluate(model, x, y, suite=suite, seed=SEED, batch_size=BATCH, audit=False).verdicts
    held = (verdicts["verdict"] == "robust").groupby([verdicts["eps"], verdicts["example"]]).all().unstack()
    return 100 * torch.tensor(held.to_numpy()).int().cummin(dim=0).values.double().mean(dim=1)
