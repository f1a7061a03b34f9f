"""adaptive runs under torch.compile (inductor): compilations, and times compiled / eager at a quarter of the full rank

A run takes 50 steps, between which the tolerance grows, so that ranks fall from full to few (medians of 15 rounds).
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.timing import medians
from robust_lowrank import DLRT, TDLRT, GeoLoRA, LowRankOptimizer, UserError, compress
from robust_lowrank.layers import named_factored_layers


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(64, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


def stack(*layers: nn.Module) -> nn.Sequential:
    """Return the layers with a ReLU after each."""
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "linear 256, 3 layers": (lambda: stack(*(nn.Linear(256, 256) for _ in range(3))), (128, 256), DLRT(tol=0.02)),
    "conv1d 64, 2 layers": (lambda: stack(*(nn.Conv1d(64, 64, 5, padding=2) for _ in range(2))), (16, 64, 128), GeoLoRA(tol=0.02)),
    "conv2d 64, 2 layers": (lambda: stack(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))), (16, 64, 16, 16), DLRT(tol=0.02)),
    "conv3d 64": (lambda: stack(nn.Conv3d(64, 64, 3, padding=1)), (4, 64, 6, 6, 6), GeoLoRA(tol=0.02)),
    "tucker 64, 2 layers": (lambda: stack(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))), (16, 64, 16, 16), TDLRT(tol=0.02)),
    "transposed 64": (lambda: stack(nn.ConvTranspose2d(64, 64, 3)), (16, 64, 12, 12), DLRT(tol=0.02)),
    "attention 64": (Attention, (16, 32, 64), GeoLoRA(tol=0.02)),
}


KEY, RATIOS = ("network", "method"), ("compilations", "pass", "step")


def measure(build: Callable[[], nn.Module], shape: tuple[int, ...], method: Any) -> dict[str, object]:
    """Return how often the network was compiled in a run, and what a pass and a step took on the way."""
    torch.manual_seed(0)
    net, x = build(), torch.randn(shape)
    compress(net, method=method, rank=1.0)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01)
    graphs = 0

    def counting(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("inductor")(graph, inputs)

    compiled: Any = torch.compile(net, backend=counting, fullgraph=True)

    def evaluate(called: nn.Module) -> Tensor:
        opt.zero_grad()
        loss = called(x).square().mean()
        loss.backward()
        return loss

    layers = [layer for _, layer in named_factored_layers(net)]
    ranks, times = set(), {}
    start = time.perf_counter()
    evaluate(compiled)
    first = time.perf_counter() - start
    for step in range(50):
        for layer in layers:
            layer.method = dataclasses.replace(method, tol=0.02 + 0.017 * step)
        opt.step(lambda: evaluate(compiled))
        ranks.add(layers[0].ranks())
        if not times and layers[0].rank <= min(layers[0].weight_shape) / 4:
            called = {"eager": net, "compiled": compiled}
            passes = medians({name: lambda one=one: evaluate(one) for name, one in called.items()})
            steps = medians({name: lambda one=one: opt.step(lambda: evaluate(one)) for name, one in called.items()})
            times = {
                "pass, eager ms": f"{1000 * passes['eager']:.1f}",
                "pass": f"{passes['compiled'] / passes['eager']:.2f}",
                "step": f"{steps['compiled'] / steps['eager']:.2f}",
            }
    return {"layers": len(layers), "ranks": len(ranks), "compilations": graphs, "first pass s": f"{first:.0f}", **times}


def run() -> pd.DataFrame:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError("inductor needs a C++ compiler, such as g++, and finds none") from error
    rows = []
    with torch._dynamo.config.patch(force_parameter_static_shapes=False):
        for kind, (build, shape, method) in KINDS.items():
            torch._dynamo.reset()
            rows.append({"network": kind, "method": method.name, **measure(build, shape, method)})
    return pd.DataFrame(rows)
