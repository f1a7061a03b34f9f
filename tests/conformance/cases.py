"""Layers of random shapes and ranks, and a loss whose gradient by the weight a dense twin knows."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, RGD, TDLRT, CondLR, GeoLoRA, LowRankOptimizer, RobustDLRT
from robust_lowrank.initialisation import gaussian_factors
from robust_lowrank.layers import FactoredLayer
from robust_lowrank.layers.forms import build, form_of
from robust_lowrank.linalg import Factors, tucker_ranks
from robust_lowrank.methods import GalerkinMethod, Method

INF = math.inf
METHODS: dict[str, Method] = {
    "CondLR": CondLR(tau=0.1),
    "CondLR tau=0": CondLR(tau=0.0),
    "CondLR tau=inf": CondLR(tau=INF),
    "CondLR polar, exact cone": CondLR(tau=0.5, retraction="polar", reference="exact"),
    "CondLR repo, mean": CondLR(tau=0.5, precond="repo", reference="mean"),
    "CondLR no preconditioner": CondLR(tau=0.1, precond="none"),
    "DLRT fixed": DLRT(),
    "DLRT": DLRT(tol=0.1),
    "DLRT cond": DLRT(tol=0.1, cond=1.5),
    "TDLRT": TDLRT(tol=0.1),
    "TDLRT all modes": TDLRT(tol=0.1, modes="all"),
    "TDLRT cond": TDLRT(tol=0.1, cond=1.5),
    "GeoLoRA": GeoLoRA(tol=0.1),
    "GeoLoRA budget": GeoLoRA(tol=0.0, budget=3, min_rank=1),
    "GeoLoRA cond": GeoLoRA(tol=0.1, cond=1.5),
    "RGD": RGD(),
    "RobustDLRT": RobustDLRT(tol=0.1, core_steps=2),
}
KINDS = ("linear", "conv")
KERNELS = ((1, 1), (3, 3), (2, 3), (3, 1))


@dataclass
class Case:
    """A factored layer, inputs and targets; the loss is half the squared distance of outputs and targets."""

    layer: FactoredLayer
    x: Tensor
    y: Tensor

    def loss(self, layer: nn.Module) -> Tensor:
        return 0.5 * (layer(self.x) - self.y).square().sum() / len(self.x)

    def gradient(self, weight: Tensor | None = None) -> Tensor:
        """Return dLoss/dW as autograd on a dense layer gives it, at the layer's weight or another."""
        dense = self.layer.dense_layer()
        if weight is not None:
            dense.weight.data = weight.reshape(dense.weight.shape)
        self.loss(dense).backward()
        return dense.weight.grad

    def twin(self) -> "Case":
        return copy.deepcopy(self)

    def closure(self, opt: torch.optim.Optimizer) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            opt.zero_grad()
            value = self.loss(self.layer)
            value.backward()
            return value

        return evaluate

    def train(self, steps: int, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, **options) -> LowRankOptimizer:
        opt = LowRankOptimizer(self.layer, optimizer, **options)
        for _ in range(steps):
            opt.step(self.closure(opt))
        return opt

    @property
    def weight(self) -> Tensor:
        return self.layer.dense_weight().detach().clone()


def pick(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, ()))


def dense_layer(kind: str, dtype: torch.dtype, *, square: bool = False) -> tuple[nn.Linear | nn.Conv2d, Tensor]:
    """Return a random dense layer and inputs for it; a square one has a square weight matrix."""
    bias = bool(pick(0, 1))
    if kind == "linear":
        m = pick(3, 14)
        n = m if square else pick(3, 14)
        return nn.Linear(m, n, bias=bias, dtype=dtype), torch.randn(pick(1, 3), pick(8, 20), m, dtype=dtype)
    channels, kernel = pick(2, 4), KERNELS[pick(0, 3)]
    filters = channels * math.prod(kernel) if square else pick(3, 9)
    layer = nn.Conv2d(
        channels,
        filters,
        kernel,
        stride=(pick(1, 2), pick(1, 2)),
        padding=(pick(0, 1), pick(0, 1)),
        dilation=(pick(1, 2), pick(1, 2)),
        bias=bias,
        dtype=dtype,
    )
    return layer, torch.randn(4, channels, pick(6, 8), pick(6, 8), dtype=dtype)


def draw(method: Method, kind: str, dtype: torch.dtype, seed: int, *, square: bool = False, full: bool = False) -> Case:
    """Return a case of random shape and rank with random factors; `full` gives it complete bases."""
    torch.manual_seed(seed)
    dense, x = dense_layer(kind, dtype, square=square)
    form = form_of(method)
    tensor = form.weight(dense)
    sizes = list(tensor.shape[: form.modes_of(tensor)])
    if tensor.ndim == 4:
        wanted = sizes if full else [pick(1, size) for size in sizes]
        ranks = tucker_ranks(tensor, wanted)
    else:
        ranks = [min(sizes) if full else pick(1, min(sizes))] * 2
    factors = gaussian_factors(tensor, tuple(ranks))
    core = torch.randn_like(factors.core) + (2 * torch.eye(ranks[0], dtype=dtype) if factors.core.ndim == 2 else 0)
    layer = build(dense, method.project(Factors(core, factors.bases)), method)
    with torch.no_grad():
        y = torch.randn_like(layer(x))
    return Case(layer, x, y)


def kinds_of(method: Method) -> tuple[str, ...]:
    return ("conv",) if method.form == "tucker" else KINDS


def untruncated(method: Method) -> Method:
    """Return the method without what moves a weight besides its gradient: truncation, clamps, budgets, penalties."""
    if isinstance(method, CondLR):
        return replace(method, tau=INF)
    if isinstance(method, RobustDLRT):
        method = replace(method, beta=0.0, core_steps=1)
    if isinstance(method, GeoLoRA):
        method = replace(method, budget=None)
    if isinstance(method, GalerkinMethod):
        method = replace(method, cond=None, tol=None if method.tol is None else 0.0)
    return method


def limited(method: Method, rank: int) -> Method:
    """Return the method without what moves a weight besides its gradient, and so that a weight of this rank keeps it."""
    method = untruncated(method)
    return replace(method, max_rank=rank) if isinstance(method, GalerkinMethod) and method.adaptive else method


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the distance relative to the larger of the expected norm and 1."""
    return float(torch.dist(found.flatten(), expected.flatten()) / expected.norm().clamp(min=1.0))


def defect(layer: FactoredLayer) -> float:
    bases = [basis.detach() for basis in layer.bases()]
    return max(float(torch.dist(b.T @ b, torch.eye(b.shape[1], dtype=b.dtype))) for b in bases)


def cond_excess(layer: FactoredLayer, bound: float) -> float:
    sigma = layer.singular_values()
    return max(0.0, float(sigma[0] / sigma[-1]) / bound - 1)
