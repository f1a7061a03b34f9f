"""a step of ResNet-20 (CondLR, batch 64, rank 0.25), a record of the monitor, and what one record every ten steps adds"""

import pandas as pd
import torch
from torch import nn

from benchmarks.timing import medians
from robust_lowrank import LowRankOptimizer, MemoryWriter, Monitor, compress
from robust_lowrank.models import build, classifier

EVERY = 10


def run() -> pd.DataFrame:
    torch.manual_seed(0)
    x, y = torch.rand(64, 3, 32, 32), torch.randint(0, 10, (64,))
    net = build("resnet20", input_shape=(3, 32, 32), num_classes=10)
    compress(net, method="condlr", rank=0.25, exclude=[classifier(net)], init="kaiming")
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01, momentum=0.9)
    monitor = Monitor(net, writers=[MemoryWriter()])

    def step() -> None:
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        opt.step()

    def watched() -> None:
        step()
        monitor.record()

    times = medians({"step": step, "step with record": watched, "record": monitor.record}, rounds=7, warmup=1)
    row = {f"{name} ms": f"{1000 * seconds:.1f}" for name, seconds in times.items()}
    added = {"record": times["record"], "pair": times["step with record"] - times["step"]}
    return pd.DataFrame([row | {f"added, by the {name}": f"{each / (EVERY * times['step']):.2%}" for name, each in added.items()}])
