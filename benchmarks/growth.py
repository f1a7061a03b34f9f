"""how the seconds of a training step and of an attack grow with width, rank, layers and examples: exponents beside theory"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import medians, one_thread
from robust_lowrank import CondLR, GeoLoRA, LowRankOptimizer, compress
from robust_lowrank.evaluation import PGD, Suite, evaluate
from robust_lowrank.methods import Method

KEY, RATIOS = ("what", "sizes"), ("exponent",)
WIDTH, RANK, LAYERS, BATCH, ROUNDS = 1024, 16, 4, 32, 5
METHODS: dict[str, Method] = {"condlr": CondLR(), "geolora": GeoLoRA(tol=None)}


class Growth(NamedTuple):
    """One size that grows while all others stay."""

    what: str
    sizes: Sequence[int]
    theory: str  # the exponent that the most expensive part has in the end
    step: Callable[[int], Callable[[], Any]]


def stepper(method: Method, *, width: int = WIDTH, rank: int = RANK, layers: int = LAYERS) -> Callable[[], Any]:
    """Return a function that takes a step of a perceptron."""
    torch.manual_seed(0)
    hidden = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    net = nn.Sequential(*hidden, nn.Linear(width, 10))
    compress(net, method=method, rank=rank, exclude=[str(2 * layers)], init="kaiming")
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01)
    x, y = torch.rand(BATCH, width), torch.randint(0, 10, (BATCH,))

    def evaluation() -> torch.Tensor:
        opt.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        return loss

    return lambda: opt.step(evaluation)


def attack(examples: int) -> Callable[[], Any]:
    """Return a function that attacks so many examples, whose labels make all of them worth it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    x = torch.rand(examples, 1, 8, 8)
    with torch.no_grad():
        y = net(x).argmax(1)
    suite = Suite(name="growth", eps=(0.001,), attacks=(PGD(steps=20),))
    return lambda: evaluate(net, x, y, suite=suite, audit=False)


def growths() -> list[Growth]:
    """Return all that grows."""
    found = []
    for name, method in METHODS.items():
        found += [
            Growth(f"{name}, width", (64, 128, 256, 512, 1024, 2048), "1", lambda n, m=method: stepper(m, width=n)),
            Growth(f"{name}, rank", (8, 16, 32, 64, 128, 256), "1 to 2", lambda r, m=method: stepper(m, rank=r)),
            Growth(f"{name}, layers", (4, 10, 25, 50, 100), "1", lambda k, m=method: stepper(m, width=128, layers=k)),
        ]
    return [*found, Growth("PGD-20, examples", (100, 316, 1000, 3162, 10000), "1", attack)]


def run() -> pd.DataFrame:
    with one_thread():
        return pd.DataFrame(row(growth) for growth in growths())


def row(growth: Growth) -> dict[str, str]:
    """Return the milliseconds at every size, and the exponent between the two largest."""
    steps = {str(size): growth.step(size) for size in growth.sizes}
    times = [*medians(steps, rounds=ROUNDS, warmup=1, clock=time.process_time).values()]
    exponent = math.log(times[-1] / times[-2]) / math.log(growth.sizes[-1] / growth.sizes[-2])
    return {
        "what": growth.what,
        "sizes": ", ".join(map(str, growth.sizes)),
        "ms": ", ".join(f"{1000 * each:.3g}" for each in times),
        "exponent": f"{exponent:.2f}",
        "theory": growth.theory,
    }
