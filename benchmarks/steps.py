"""one training step on one thread, relative to forward + backward + SGD of a bare chain of factors (median CPU seconds)"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks import published
from benchmarks.timing import medians, one_thread
from robust_lowrank import DLRT, TDLRT, CondLR, GeoLoRA, LowRankOptimizer, Vanilla, compress
from robust_lowrank.methods import Method
from robust_lowrank.models import build, classifier
from robust_lowrank.models.vit import EncoderBlock

RANK, LR = 0.2, 0.01
SHAPES = {"lenet5": (1, 28, 28)}
ROUNDS = {("lenet5", 32): 9, ("lenet5", 128): 9, ("resnet20", 32): 7, ("vgg11", 32): 5}  # 3 elsewhere
CASES = [(network, batch) for network in ("lenet5", "resnet20", "vgg11", "vgg16", "resnet18") for batch in (32, 128)]
CASES.append(("vit-s", 16))


class Way(NamedTuple):
    """A method and its kind of step."""

    method: Method
    step: str = "exact"


METHODS = {
    "condlr": Way(CondLR()),
    "geolora": Way(GeoLoRA(tol=None)),
    "geolora tol": Way(GeoLoRA(tol=0.03)),
    "dlrt": Way(DLRT()),
    "dlrt amortised": Way(DLRT(), "amortised"),
    "dlrt tol": Way(DLRT(tol=0.03)),
    "tdlrt": Way(TDLRT(tol=0.03)),
}


KEY, RATIOS = ("network", "batch"), tuple(METHODS)


class Tokens(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mT


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def network_of(name: str) -> tuple[nn.Module, str]:
    """Return a network and the name of its classifier, which stays dense."""
    torch.manual_seed(0)
    if name == "vit-s":  # patches of 4 x 4, 12 blocks of width 384 with 6 heads, on the mean of the tokens
        blocks = (EncoderBlock(384, 6) for _ in range(12))
        stem = nn.Sequential(nn.Conv2d(3, 384, 4, stride=4), nn.Flatten(2), Tokens())
        return nn.Sequential(stem, *blocks, nn.LayerNorm(384), Mean(), nn.Linear(384, 10)), "15"
    if name != "vgg11":
        net = build(name, input_shape=SHAPES.get(name, (3, 32, 32)), num_classes=10)
        return net, classifier(net)
    from torchvision.models import vgg11_bn

    hidden = [layer for _ in range(2) for layer in (nn.Linear(512, 512), nn.ReLU())]
    return nn.Sequential(vgg11_bn().features, nn.Flatten(), *hidden, nn.Linear(512, 10)), "6"


def stepper(name: str, batch: int, way: str) -> Callable[[], Any]:
    """Return a function that takes a step: of `dense`, of the `bare` chain, as `published`, or of a method."""
    net, last = network_of(name)
    net.train()
    x, y = torch.rand(batch, *SHAPES.get(name, (3, 32, 32))), torch.randint(0, 10, (batch,))

    def evaluate() -> torch.Tensor:
        net.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        return loss

    if way.startswith("published"):
        layers = published.unfold(net, RANK, last)
        if way == "published condlr":
            return lambda: published.condlr_step(net, layers, evaluate, lr=LR, tau=0.1)
        return lambda: published.dlrt_step(net, layers, evaluate, lr=LR)
    chosen = METHODS.get(way, Way(Vanilla()))
    if way != "dense":
        compress(net, method=chosen.method, rank=RANK, exclude=[last], init="kaiming")
    if way in METHODS:
        opt = LowRankOptimizer(net, torch.optim.SGD, step=chosen.step, lr=LR)  # pyright: ignore[reportArgumentType]
        return lambda: opt.step(evaluate)
    plain = torch.optim.SGD(net.parameters(), lr=LR)
    return lambda: plain.step(evaluate)


def run() -> pd.DataFrame:
    with one_thread():
        return pd.DataFrame(row(network, batch) for network, batch in CASES)


def row(network: str, batch: int) -> dict[str, str]:
    """Return the ratios of one network at one batch size."""
    ways = ["bare", "dense", *METHODS, "published condlr", "published dlrt"]
    steps = {way: stepper(network, batch, way) for way in ways}
    times = medians(steps, rounds=ROUNDS.get((network, batch), 3), warmup=1, clock=time.process_time)
    ratios = {way: f"{times[way] / times['bare']:.2f}" for way in ways[1:]}
    return {"network": network, "batch": str(batch), "bare ms": f"{1000 * times['bare']:.0f}", **ratios}
