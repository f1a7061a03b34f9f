"""What the published ways compute is what the package computes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks import published
from robust_lowrank import DLRT, CondLR, LowRankOptimizer
from robust_lowrank.layers import LowRankConv, LowRankLinear
from robust_lowrank.layers.conv import conv_shape
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import Method

LR = 0.05


def factored(layer: published.Unfolded, dense: nn.Module, method: Method) -> LowRankConv | LowRankLinear:
    """Return the package's layer with the factors of an unfolded one."""
    factors, bias = Factors(layer.s, (layer.u, layer.v)), layer.bias.detach()
    ours = LowRankConv(factors, conv_shape(dense), bias) if isinstance(dense, nn.Conv2d) else LowRankLinear(factors, bias)
    ours.method = method
    return ours


@pytest.mark.parametrize("method", [DLRT(), CondLR(tau=0.5, reference="rms")], ids=["dlrt", "condlr"])
def test_steps_written_the_published_way_are_the_package_s(method: Method) -> None:
    theirs = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.Tanh(), nn.Flatten(), nn.Linear(54, 12), nn.Linear(12, 4)
    ).double()
    dense = copy.deepcopy(theirs)
    layers = published.unfold(theirs, 0.5, "5")
    ours = copy.deepcopy(theirs)
    with torch.no_grad():
        for layer in layers:
            layer.s.copy_(method.project(Factors(layer.s.detach(), ())).core)
    for place, layer in zip((0, 4), layers, strict=True):
        ours[place] = factored(layer, dense[place], method)
    x, y = torch.randn(8, 2, 6, 6, dtype=torch.float64), torch.randint(0, 4, (8,))
    opt = LowRankOptimizer(ours, torch.optim.SGD, lr=LR)

    def evaluation(net: nn.Module) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            net.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        return evaluate

    for _ in range(3):
        opt.step(evaluation(ours))
        if isinstance(method, DLRT):
            published.dlrt_step(theirs, layers, evaluation(theirs), lr=LR)
        else:
            published.condlr_step(theirs, layers, evaluation(theirs), lr=LR, tau=0.5)
    for place, layer in zip((0, 4), layers, strict=True):
        assert float((ours[place].merged() - layer.u @ layer.s @ layer.v.T).detach().abs().max()) < 1e-10
    for place in (1, 5):
        assert float((ours[place].weight - theirs[place].weight).detach().abs().max()) < 1e-10
