"""Problems whose ranks are known: one matrix, and a network of three layers beside which three updates are to be found."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robust_lowrank import LowRankOptimizer, adapt, compress, linalg
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.methods import Method
from tests.conformance.cases import Case

Inner = type[torch.optim.Optimizer]


@dataclass(frozen=True)
class Rate:
    """A torch optimizer with its options, and the batches after which a planted matrix is found, with some to spare."""

    optimizer: Inner
    options: dict[str, float]
    batches: int


RATES = {
    "SGD .3": Rate(torch.optim.SGD, {"lr": 0.3}, 60),
    "SGD .1": Rate(torch.optim.SGD, {"lr": 0.1}, 90),
    "SGD .02": Rate(torch.optim.SGD, {"lr": 0.02}, 420),
    "SGD .03, momentum .9": Rate(torch.optim.SGD, {"lr": 0.03, "momentum": 0.9}, 150),
    "Adam .01": Rate(torch.optim.Adam, {"lr": 0.01}, 650),
    "Adam .03": Rate(torch.optim.Adam, {"lr": 0.03}, 200),
}


def matrix(n: int, m: int, sigma: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return a matrix with these singular values in random position."""
    u, v = (linalg.orth(torch.randn(size, len(sigma), dtype=dtype)) for size in (n, m))
    return u * torch.tensor(sigma, dtype=dtype) @ v.T


def found(target: Tensor, method: Method, start: int, rate: Rate, step: str) -> Case:
    """Return a layer that has been trained on half the squared distance to a matrix, from a rank to start with."""
    n, m = target.shape
    net = nn.Sequential(nn.Linear(m, n, bias=False, dtype=target.dtype))
    compress(net, method=method, rank=start, init="kaiming")
    case = Case(net[0], math.sqrt(m) * torch.eye(m, dtype=target.dtype), math.sqrt(m) * target.T)
    batches = math.ceil(rate.batches / case.layer.method.core_steps) if step == "exact" and method.core_steps else rate.batches
    opt = case.train(batches, rate.optimizer, step=step, **rate.options)
    opt.truncate()
    return case


def miss(case: Case, target: Tensor, rank: int) -> float:
    """Return how far the rank is from the planted one, plus the relative squared error."""
    return abs(case.layer.rank - rank) + float((case.weight - target).square().sum() / target.square().sum())


class Three(nn.Module):
    """Three layers, of which the first and the last need an update."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def updates(
    method: Method, ranks: Sequence[int], start: int, dtype: torch.dtype, *, lr: float, batches: int
) -> tuple[list[int], float]:
    """Return the ranks of the updates that adapters find beside three layers, and the relative squared error of the outputs.

    The learning rate falls along half a cosine, so that at the end the noise of the batches holds no direction in the weight.
    """
    width, at_once, examples = 24, 64, 512
    base = Three(width)
    for layer in base.children():
        nn.init.orthogonal_(layer.weight)
    target = Three(width)
    target.load_state_dict(base.state_dict())
    for layer, rank in zip(target.children(), ranks, strict=True):
        if rank:
            layer.weight.data += matrix(width, width, torch.linspace(1.0, 0.5, rank).tolist(), torch.float32)
    base, target, x = base.to(dtype), target.to(dtype), torch.randn(examples, width, dtype=dtype)
    y = target(x).detach()
    adapt(base, method=method, rank=start)
    opt = LowRankOptimizer(base, torch.optim.AdamW, lr=lr, weight_decay=0.0)
    for batch in range(batches):
        for group in opt.param_groups:
            group["lr"] = lr * (1 + math.cos(math.pi * batch / batches)) / 2
        chosen = torch.randint(0, examples, (at_once,))
        opt.step(_closure(base, opt, x[chosen], y[chosen]))
    opt.finish()
    found = [layer.rank for _, layer in named_factored_layers(base)]
    return found, float((base(x).detach() - y).square().sum() / y.square().sum())


def _closure(net: nn.Module, opt: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def evaluate() -> Tensor:
        opt.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        return loss

    return evaluate
