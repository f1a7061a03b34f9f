"""ten training steps of ResNet-20 (CondLR, batch 64, rank 0.25) with a record of the monitor and without, in turn"""

import statistics
import time

import pandas as pd
import torch
from torch import nn

from robust_lowrank import LowRankOptimizer, Memory, Monitor, compress
from robust_lowrank.models import build, classifier

EVERY, ROUNDS = 10, 5


def run() -> pd.DataFrame:
    torch.manual_seed(0)
    x, y = torch.rand(64, 3, 32, 32), torch.randint(0, 10, (64,))
    net = build("resnet20", input_shape=(3, 32, 32), num_classes=10)
    compress(net, method="condlr", rank=0.25, exclude=[classifier(net)], start="kaiming")
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01, momentum=0.9)
    monitor = Monitor(net, every=EVERY, writers=[Memory()])

    def step(watched: bool) -> float:
        start = time.perf_counter()
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
        if watched:
            monitor.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for _ in range(3):
        step(False)
    plain, watched = [], []
    for turn in range(ROUNDS):
        order = (False, True) if turn % 2 else (True, False)
        for with_monitor in order:
            (watched if with_monitor else plain).append(sum(step(with_monitor) for _ in range(EVERY)))
    record = statistics.median(_timed(monitor) for _ in range(ROUNDS))
    ratios = [b / a for a, b in zip(plain, watched, strict=True)]
    step_time = statistics.median(plain) / EVERY
    return pd.DataFrame(
        [
            {
                "step ms": f"{1000 * step_time:.1f}",
                "record ms": f"{1000 * record:.1f}",
                "record / ten steps": f"{record / (EVERY * step_time):.2%}",
                "median of with / without": f"{statistics.median(ratios):.3f}",
            }
        ]
    )


def _timed(monitor: Monitor) -> float:
    start = time.perf_counter()
    monitor.record()
    return time.perf_counter() - start
