"""Compiled networks whose ranks change: what they compute, and how often they are compiled."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, TDLRT, CondLR, GeoLoRA, LowRankOptimizer, adapt, compress
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.layers.convolution import ConvGeometry, convolution_gradients, convolve
from robust_lowrank.linalg import Factors, qf
from robust_lowrank.methods import GalerkinMethod
from tests.compiling import require_a_compiler

BACKENDS = ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
each_backend = pytest.mark.parametrize("backend", BACKENDS)
MOST = 3  # compilations of a run: one, one where bases need no gradients, one of an evaluation
RANKS = (2, *range(30, 2, -1))
Build = Callable[[], nn.Module]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(32, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


KINDS: dict[str, tuple[Build, tuple[int, ...], GalerkinMethod]] = {
    "linear": (lambda: nn.Linear(40, 32), (4, 40), DLRT(tol=0.1)),
    "conv1d": (lambda: nn.Conv1d(32, 40, 3, padding=1), (2, 32, 8), DLRT(tol=0.1)),
    "conv2d": (lambda: nn.Conv2d(32, 40, 3, stride=2, padding=1), (2, 32, 6, 6), DLRT(tol=0.1)),
    "conv3d": (lambda: nn.Conv3d(32, 40, 2, dilation=2), (2, 32, 3, 3, 3), DLRT(tol=0.1)),
    "tucker channels": (lambda: nn.Conv2d(32, 40, 3, padding=1), (2, 32, 5, 5), TDLRT(tol=0.1)),
    "tucker all": (lambda: nn.Conv2d(32, 40, 3, padding=1), (2, 32, 5, 5), TDLRT(tol=0.1, modes="all")),
    "merged": (lambda: nn.ConvTranspose2d(32, 40, 3), (2, 32, 5, 5), DLRT(tol=0.1)),
    "merged blocks": (Attention, (2, 5, 32), DLRT(tol=0.1)),
}


class Counting:
    """A backend that keeps the graphs that it is given."""

    def __init__(self, backend: str) -> None:
        self._backend = torch._dynamo.lookup_backend(backend)
        self.graphs: list[Any] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs.append(graph)
        return self._backend(graph, inputs)

    def calls(self) -> set[str]:
        """Return the names of all that the graphs call, in the functions that they apply too."""
        parts = [part for graph in self.graphs for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
        return {str(node.target) for part in parts for node in part.graph.nodes}


@pytest.fixture
def compile_() -> Iterator[Callable[..., tuple[nn.Module, Counting]]]:
    """Compile with sizes of parameters left open, as docs/loops.md says; hitting torch's limit is an error."""

    def compiled(net: nn.Module, backend: str = "aot_eager") -> tuple[nn.Module, Counting]:
        if backend == "inductor":
            require_a_compiler()
        counting = Counting(backend)
        return torch.compile(net, backend=counting, fullgraph=True), counting  # pyright: ignore[reportReturnType]

    torch._dynamo.reset()
    with torch._dynamo.config.patch(force_parameter_static_shapes=False):
        yield compiled
    torch._dynamo.reset()


def set_ranks(net: nn.Module, rank: int) -> None:
    """Draw factors of this rank, or of the largest that a basis can have, for every layer."""
    for _, layer in named_factored_layers(net):
        core, bases = layer.factors()
        ranks = [min(rank, len(basis)) for basis in bases]
        drawn = tuple(qf(torch.randn(len(basis), size)) for basis, size in zip(bases, ranks, strict=True))
        layer.set_factors(Factors(torch.randn(*ranks, *core.shape[len(ranks) :]), drawn))
        for factor in layer.all_factors():
            factor.grad = None


def gradients(net: nn.Module, called: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of the input and of all parameters."""
    net.zero_grad()
    x = x.clone().requires_grad_(True)
    y = called(x)
    y.square().mean().backward()
    found = [x.grad, *(parameter.grad for parameter in net.parameters())]
    assert all(each is not None for each in found)
    return [y.detach(), *found]  # pyright: ignore[reportReturnType]


def assert_same(one: list[Tensor], other: list[Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        pytest.param(kind, backend, marks=[] if backend == "aot_eager" and kind != "tucker all" else pytest.mark.slow)
        for kind in KINDS
        for backend in ("aot_eager", "inductor")
    ],
)
def test_one_compilation_serves_all_ranks(kind: str, backend: str, compile_: Any) -> None:
    build, shape, method = KINDS[kind]
    net = nn.Sequential(build())
    assert compress(net, method=method, rank=0.5).ranks
    LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    compiled, counting = compile_(net, backend)
    x = torch.randn(shape)
    for rank in RANKS:
        set_ranks(net, rank)
        assert_same(gradients(net, compiled, x), gradients(net, net, x))
    assert len(counting.graphs) == 1


@pytest.mark.slow
@each_backend
def test_a_core_that_is_not_square(backend: str, compile_: Any) -> None:
    """Beside a complete basis the other has more columns, and the slots are cut or filled."""
    net = nn.Sequential(nn.Linear(40, 6), nn.Conv1d(6, 6, 3), nn.ConvTranspose1d(6, 6, 3))
    compress(net, method=DLRT(tol=0.1), rank=0.5)
    LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    compiled, counting = compile_(net, backend)
    x = torch.randn(3, 6, 40)
    for columns in (3, 8, 11, 5):
        for _, layer in named_factored_layers(net):
            n, m = layer.weight_shape
            u, v = qf(torch.randn(n, min(n, columns))), qf(torch.randn(m, columns))
            layer.set_factors(Factors(torch.randn(u.shape[1], columns), (u, v)))
        net.zero_grad()
        assert_same(gradients(net, compiled, x), gradients(net, net, x))
    assert len(counting.graphs) == 1
    assert [layer.rank for _, layer in named_factored_layers(net)] == [5, 5, 5]


class Network(nn.Module):
    """A chain convolution, a merged one and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 24, 3, padding=1), nn.ConvTranspose2d(24, 20, 2)
        self.hidden, self.head = nn.Linear(20, 28), nn.Linear(28, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


def train(net: nn.Module, called: nn.Module, steps: int, **options: Any) -> list[tuple[float, list[tuple[int, ...]]]]:
    """Return losses and ranks of steps between which the tolerance grows, a layer's faster than those before."""
    torch.manual_seed(1)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.05, momentum=0.9, **options)
    layers = [layer for _, layer in named_factored_layers(net)]
    history = []
    for step in range(steps):
        for place, layer in enumerate(layers):
            tol = min(0.9, 0.02 + (0.01 + 0.005 * place) * step)
            layer.method = dataclasses.replace(layer.method, tol=tol)
        x, y = torch.randn(8, 4, 5, 5), torch.randint(0, 3, (8,))

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(called(x), y)
            loss.backward()
            return loss

        history.append((opt.step(closure).item(), [layer.ranks() for layer in layers]))
    return history


RUNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dlrt": (DLRT(tol=0.02), {}),
    "tdlrt": (TDLRT(tol=0.02), {}),
    "geolora": (GeoLoRA(tol=0.02), {}),
    "dlrt amortised": (DLRT(tol=0.02), {"step": "amortised", "window": 2}),
    "dlrt elementwise": (DLRT(tol=0.02), {"moments": "elementwise"}),  # bases need no gradients between turning and truncation
}


SHARES = ((0.5, "aot_eager"), (1.0, "aot_eager"), (1.0, "inductor"))
CASES = [(run, *share) for run in RUNS for share in SHARES]


@pytest.mark.slow
@pytest.mark.parametrize(("run", "share", "backend"), CASES)
def test_a_compiled_training_is_the_eager_one(run: str, share: float, backend: str, compile_: Any) -> None:
    method, options = RUNS[run]
    net = Network()
    compress(net, method=method, rank=share, exclude=["head"])
    other = copy.deepcopy(net)
    compiled, counting = compile_(net, backend)
    for (loss, ranks), (due, due_ranks) in zip(
        train(net, compiled, 40, **options), train(other, other, 40, **options), strict=True
    ):
        assert ranks == due_ranks
        assert loss == pytest.approx(due, rel=1e-3)
    assert len(counting.graphs) <= MOST
    with torch.no_grad():
        x = torch.randn(2, 4, 5, 5)
        torch.testing.assert_close(compiled.eval()(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    assert len(counting.graphs) <= MOST


@pytest.mark.slow
def test_ranks_that_begin_to_change_one_after_the_other(compile_: Any) -> None:
    net = nn.Sequential(*(nn.Linear(24, 24) for _ in range(4)))
    compress(net, method=DLRT(tol=0.1), rank=0.5)
    LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    compiled, counting = compile_(net)
    x = torch.randn(4, 24)
    for place in range(4):
        set_ranks(net[place : place + 1], 5 + place)
        assert_same(gradients(net, compiled, x), gradients(net, net, x))
    assert len(counting.graphs) == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", [CondLR(), DLRT(), TDLRT(tol=None)], ids=["condlr", "dlrt", "tdlrt"])
def test_fixed_ranks_are_compiled_as_they_are(method: Any, compile_: Any) -> None:
    net = nn.Sequential(nn.Conv2d(4, 24, 3), nn.Flatten(), nn.Linear(24, 8), nn.Linear(8, 3))
    compress(net, method=method, rank=0.5, exclude=["3"])
    LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    compiled, counting = compile_(net)
    gradients(net, compiled, torch.randn(2, 4, 3, 3))
    assert any("conv2d" in name for name in counting.calls())
    assert not any("robust_lowrank" in name for name in counting.calls())
    sizes = [node.meta["example_value"].shape for node in counting.graphs[0].graph.nodes if node.op == "placeholder"]
    assert len(sizes) > 8 and all(isinstance(size, int) for shape in sizes for size in shape)


def test_ranks_are_left_open_only_where_torch_leaves_sizes_of_parameters_open(compile_: Any) -> None:
    net = nn.Sequential(nn.Conv2d(4, 24, 3))
    compress(net, method=DLRT(tol=0.1), rank=0.5)
    LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    for static, open_ in ((True, False), (False, True)):
        with torch._dynamo.config.patch(force_parameter_static_shapes=static):
            compiled, counting = compile_(net)
            gradients(net, compiled, torch.randn(2, 4, 3, 3))
        assert any("robust_lowrank" in name for name in counting.calls()) == open_
        torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_adapters_in_bf16_autocast(compile_: Any) -> None:
    net = nn.Sequential(nn.Conv2d(8, 24, 3), nn.Flatten(), nn.Linear(24, 8))
    adapt(net, method=DLRT(tol=0.1), rank=0.5)
    LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    compiled, counting = compile_(net)
    x = torch.randn(4, 8, 3, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for rank in (3, 6, 4):
            set_ranks(net, rank)
            one, other = compiled(x), net(x)
            assert one.dtype == torch.bfloat16
            torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
            one.float().square().mean().backward()
    assert len(counting.graphs) == 1


def test_exported_programs_have_no_operators_of_ours(compile_: Any) -> None:
    net = nn.Sequential(nn.Conv2d(4, 24, 3))
    compress(net, method=DLRT(tol=0.1), rank=0.5)
    LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    x = torch.randn(2, 4, 3, 3)
    for strict in (False, True):
        program = torch.export.export(net, (x,), strict=strict)
        assert not any("robust_lowrank" in str(node.target) for node in program.graph.nodes)
        torch.testing.assert_close(program.module()(x), net(x))


GEOMETRIES = {
    1: ConvGeometry((2,), (1,), (1,)),
    2: ConvGeometry((2, 1), (0, 1), (1, 2)),
    3: ConvGeometry((1, 2, 1), (1, 0, 1), (1, 1, 1)),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("slides", GEOMETRIES)
@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # torch's examination asks for it
def test_operators_of_any_channels(slides: int) -> None:
    """Torch's own examination: schema, shapes and strides without data, and derivatives; and the values of torch's convolution."""
    geometry = GEOMETRIES[slides]
    x = torch.randn(2, 3, *[6] * slides, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(4, 3, *[3] * slides, dtype=torch.float64, requires_grad=True)
    lists = [list(each) for each in geometry]
    convolution, backward = torch.ops.robust_lowrank.convolution, torch.ops.robust_lowrank.convolution_gradients
    y = convolution(x, kernel, *lists)
    torch.testing.assert_close(y, convolve(x, kernel, geometry))
    delta = torch.randn_like(y)
    due = convolution_gradients(delta, x.detach(), kernel.detach(), geometry, wanted=(True, True))
    torch.testing.assert_close(torch.autograd.grad(y, (x, kernel), delta), due)
    torch.library.opcheck(convolution.default, (x, kernel, *lists))
    for wanted in ([True, True], [False, True], [True, False]):
        torch.library.opcheck(backward.default, (delta, x.detach(), kernel.detach(), *lists, wanted))
