"""What torch's optimizers mean for factored weights: with complete bases, what the same formulas make of a dense weight."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, RGD, TDLRT, CondLR, GeoLoRA, LowRankOptimizer, UserError, Vanilla, compress, linalg
from robust_lowrank.layers import FactoredLayer, LowRankLinear, TuckerConv2d
from robust_lowrank.layers.conv import ConvShape
from robust_lowrank.layers.convolution import ConvGeometry
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import Method, tangent
from tests.methods.catalogue import taken, with_each

F64 = torch.float64
METHODS = taken("rgd") | {
    "dlrt": DLRT(),
    "dlrt tol": DLRT(tol=0.0),
    "tdlrt": TDLRT(tol=None),
    "geolora": GeoLoRA(tol=0.0),
    "condlr": CondLR(tau=math.inf),
    "condlr polar": CondLR(tau=math.inf, retraction="polar"),
}
each_method = with_each(METHODS)
Gradient = Callable[[Tensor], Tensor]


def orthonormal(n: int, r: int) -> Tensor:
    return linalg.orth(torch.randn(n, r, dtype=F64))


def square_layer(method: Method, n: int = 5) -> LowRankLinear:
    core = torch.randn(n, n, dtype=F64) + 2 * torch.eye(n, dtype=F64)
    layer = LowRankLinear(method.project(Factors(core, (orthonormal(n, n), orthonormal(n, n)))))
    layer.method = method
    return layer


def kernel_layer(method: Method) -> TuckerConv2d:
    shape = ConvShape(3, (3, 3), ConvGeometry((1, 1), (1, 1), (1, 1)))
    layer = TuckerConv2d(Factors(torch.randn(4, 3, 3, 3, dtype=F64), (orthonormal(4, 4), orthonormal(3, 3))), shape)
    layer.method = method
    return layer


def problem(layer: FactoredLayer) -> tuple[Callable[[nn.Module], Tensor], Gradient]:
    """Return a loss of the layer, whose rows and columns are of very different sizes, and its gradient in the dense weight."""
    if isinstance(layer, TuckerConv2d):
        x, dense = torch.randn(2, 3, 5, 5, dtype=F64), lambda w: nn.functional.conv2d(x, w, padding=1)
    else:
        x = torch.randn(8, layer.weight_shape[1], dtype=F64) * torch.logspace(0, -2, layer.weight_shape[1], dtype=F64)
        dense = lambda w: x @ w.T  # noqa: E731
    target = torch.randn_like(layer(x))

    def value(y: Tensor) -> Tensor:
        return (y - target).square().sum() / 8 + y.sin().mean()

    def gradient(w: Tensor) -> Tensor:
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(value(dense(leaf)), leaf)[0]

    return lambda module: value(module(x)), gradient


def run(
    layer: FactoredLayer, loss: Callable[[nn.Module], Tensor], optimizer: type, steps: int = 10, **options: Any
) -> list[Tensor]:
    """Return the weight after each step."""
    opt = LowRankOptimizer(layer, optimizer, **options)

    def closure() -> Tensor:
        opt.zero_grad()
        value = loss(layer)
        value.backward()
        return value

    found = []
    for _ in range(steps):
        opt.step(closure)
        found.append(layer.dense_weight().detach())
    return found


def covariances(g: Tensor) -> list[Tensor]:
    return [side @ side.T for side in (g.flatten(1), g.transpose(0, 1).flatten(1))]


def whitened(x: Tensor, squares: Sequence[Tensor], eps: float) -> Tensor:
    """Return A^(-1/4) X B^(-1/4), no eigenvalue below a ten-thousandth of the mean, white noise with root mean square 1."""
    for mode, square in enumerate(squares):
        values, vectors = torch.linalg.eigh(square)
        level = x.numel() / len(square)
        root = values.maximum(values.mean() / 10_000).clamp(min=0).sqrt() + eps * math.sqrt(level)
        x = torch.tensordot(vectors @ torch.diag(root**-0.5) @ vectors.T, x.transpose(0, mode), 1).transpose(0, mode)
    return x * math.sqrt(x.numel() / math.sqrt(len(squares[0]) * len(squares[1])))


def larger(a: Tensor, b: Tensor) -> Tensor:
    """Return (A + B + |A - B|) / 2."""
    values, vectors = torch.linalg.eigh(a - b)
    return (a + b + vectors @ torch.diag(values.abs()) @ vectors.T) / 2


def adam(gradient: Gradient, w: Tensor, steps: int, options: dict[str, Any], *, decoupled: bool) -> list[Tensor]:
    lr, decay, eps = options["lr"], options.get("weight_decay", 0.0), options.get("eps", 1e-8)
    first, second = options.get("betas", (0.9, 0.999))
    m, squares, largest, found = torch.zeros_like(w), covariances(0 * w), covariances(0 * w), []
    for t in range(1, steps + 1):
        g = gradient(w) + (0.0 if decoupled else decay) * w
        m = first * m + (1 - first) * g
        squares = [second * old + (1 - second) * new for old, new in zip(squares, covariances(g), strict=True)]
        largest = [larger(old, new) for old, new in zip(largest, squares, strict=True)]
        used = largest if options.get("amsgrad") else squares
        step = whitened(m / (1 - first**t), [square / (1 - second**t) for square in used], eps)
        w = w - lr * (step + (decay * w if decoupled else 0.0))
        found.append(w)
    return found


def nadam(gradient: Gradient, w: Tensor, steps: int, options: dict[str, Any]) -> list[Tensor]:
    lr, decay, decoupled = options["lr"], options.get("weight_decay", 0.0), options.get("decoupled_weight_decay", False)
    first, second, speed = 0.9, 0.999, options.get("momentum_decay", 4e-3)
    m, squares, product, found = torch.zeros_like(w), covariances(0 * w), 1.0, []
    for t in range(1, steps + 1):
        g = gradient(w) + (0.0 if decoupled else decay) * w
        m = first * m + (1 - first) * g
        squares = [second * old + (1 - second) * new for old, new in zip(squares, covariances(g), strict=True)]
        now, following = first * (1 - 0.5 * 0.96 ** (t * speed)), first * (1 - 0.5 * 0.96 ** ((t + 1) * speed))
        product *= now
        mixed = (1 - now) / (1 - product) * g + following / (1 - product * following) * m
        step = whitened(mixed, [square / (1 - second**t) for square in squares], 1e-8)
        w = w - lr * (step + (decay * w if decoupled else 0.0))
        found.append(w)
    return found


def rmsprop(gradient: Gradient, w: Tensor, steps: int, options: dict[str, Any]) -> list[Tensor]:
    lr, decay, alpha = options["lr"], options.get("weight_decay", 0.0), options.get("alpha", 0.99)
    buffer, squares, found = torch.zeros_like(w), covariances(0 * w), []
    for _ in range(steps):
        g = gradient(w) + decay * w
        squares = [alpha * old + (1 - alpha) * new for old, new in zip(squares, covariances(g), strict=True)]
        buffer = options.get("momentum", 0.0) * buffer + whitened(g, squares, options.get("eps", 1e-8))
        w = w - lr * buffer
        found.append(w)
    return found


def muon(gradient: Gradient, w: Tensor, steps: int, options: dict[str, Any]) -> list[Tensor]:
    """Return torch's rule with the exact matrix sign in place of its Newton-Schulz steps."""
    lr, decay, momentum = options["lr"], options.get("weight_decay", 0.1), options.get("momentum", 0.95)
    m, found = torch.zeros_like(w), []
    for _ in range(steps):
        g = gradient(w)
        m = momentum * m + (1 - momentum) * g
        mixed = momentum * m + (1 - momentum) * g if options.get("nesterov", True) else m
        u, _, vh = torch.linalg.svd(mixed, full_matrices=False)
        by = 0.2 * math.sqrt(max(w.shape)) if options.get("adjust_lr_fn") else 1.0
        w = w - lr * (by * u @ vh + decay * w)
        found.append(w)
    return found


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-8) -> None:
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert torch.dist(ours, theirs) < tolerance * (1 + theirs.norm()), f"step {step}"
    assert torch.dist(found[0], found[-1]) > 1e-3, "nothing has moved"


@pytest.mark.sampled(2)
@each_method
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.4},
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.8, "dampening": 0.2, "weight_decay": 0.3},
    ],
    ids=["plain", "momentum", "dampening", "nesterov", "decay"],
)
def test_sgd_is_torchs_own(method: Method, options: dict[str, Any]) -> None:
    layer = square_layer(method)
    loss, gradient = problem(layer)
    dense = nn.Parameter(layer.dense_weight().detach().clone())
    twin, expected = torch.optim.SGD([dense], lr=0.2, **options), []
    for _ in range(10):
        dense.grad = gradient(dense.detach())
        twin.step()
        expected.append(dense.detach().clone())
    assert_same(run(layer, loss, torch.optim.SGD, lr=0.2, **options), expected, 1e-10)


ADAPTIVE = {
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam eps": (torch.optim.Adam, {"lr": 0.01, "eps": 0.1, "betas": (0.7, 0.9)}),
    "adam decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.5}),
    "amsgrad": (torch.optim.Adam, {"lr": 0.05, "amsgrad": True, "betas": (0.9, 0.5)}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.5}),
    "adamw amsgrad": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.2, "amsgrad": True, "betas": (0.9, 0.5)}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01, "momentum_decay": 0.3}),
    "nadam decay": (torch.optim.NAdam, {"lr": 0.01, "weight_decay": 0.5}),
    "nadam decoupled": (torch.optim.NAdam, {"lr": 0.01, "weight_decay": 0.5, "decoupled_weight_decay": True}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01}),
    "rmsprop momentum": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "alpha": 0.5, "weight_decay": 0.3}),
}


def oracle(optimizer: type, gradient: Gradient, w: Tensor, options: dict[str, Any], steps: int = 10) -> list[Tensor]:
    if optimizer is torch.optim.RMSprop:
        return rmsprop(gradient, w, steps, options)
    if optimizer is torch.optim.NAdam:
        return nadam(gradient, w, steps, options)
    return adam(gradient, w, steps, options, decoupled=optimizer is torch.optim.AdamW)


@pytest.mark.sampled(3)
@each_method
@pytest.mark.parametrize(("optimizer", "options"), ADAPTIVE.values(), ids=ADAPTIVE)
def test_T33_adaptive_rules_are_those_of_a_dense_weight(method: Method, optimizer: type, options: dict[str, Any]) -> None:
    layer = square_layer(method)
    loss, gradient = problem(layer)
    expected = oracle(optimizer, gradient, layer.dense_weight().detach(), options)
    assert_same(run(layer, loss, optimizer, **options), expected)


@pytest.mark.parametrize(("optimizer", "options"), ADAPTIVE.values(), ids=ADAPTIVE)
def test_T33_adaptive_rules_are_those_of_a_dense_kernel(optimizer: type, options: dict[str, Any]) -> None:
    layer = kernel_layer(TDLRT(tol=None))
    loss, gradient = problem(layer)
    expected = oracle(optimizer, gradient, layer.dense_weight().detach(), options)
    assert_same(run(layer, loss, optimizer, **options), expected)


def test_an_adaptive_rate_is_that_of_the_dense_optimizer_where_entries_and_directions_are_alike() -> None:
    """The step is Adam's own for gradients of entries of one size and of equal singular values."""
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=F64)
    layer = square_layer(RGD(), 4)
    before = layer.dense_weight().detach()
    probe = torch.eye(4, dtype=F64)
    dense = nn.Parameter(before.clone())
    twin = torch.optim.Adam([dense], lr=0.01)
    for _ in range(5):
        dense.grad = 3.0 * signs
        twin.step()
    found = run(layer, lambda module: (3.0 * signs * module(probe).T).sum(), torch.optim.Adam, 5, lr=0.01)
    assert torch.dist(found[-1], dense.detach()) < 1e-8


@pytest.mark.parametrize(("n", "m", "r"), [(40, 30, 6), (30, 30, 30), (12, 90, 12)])
def test_the_whitened_white_noise_has_the_root_mean_square_one_over_the_whole_weight(n: int, m: int, r: int) -> None:
    """So a learning rate is that of Adam for a dense weight: both move it by about lr sqrt(nm)."""
    factors = Factors(torch.eye(r, dtype=F64), (orthonormal(n, r), orthonormal(m, r)))
    draws = [slots(torch.randn(n, m, dtype=F64), factors) for _ in range(60)]
    mean = [sum(each) / len(draws) for each in zip(*(tangent.covariances(draw, factors) for draw in draws), strict=True)]
    levels = tangent.noise_covariances(factors)
    for square, level in zip(mean, levels, strict=True):
        assert float(square.trace() / r) == pytest.approx(level, rel=0.05)

    def root(square: Tensor) -> Callable[[float], Tensor]:
        values, vectors = torch.linalg.eigh(square)
        return lambda exponent: (vectors * values**exponent) @ vectors.T

    roots = [root(square) for square in mean]
    sizes = [float(tangent.squared_norm(tangent.whiten(draw, factors, roots), factors)) for draw in draws]
    assert sum(sizes) / len(sizes) == pytest.approx(tangent.whitened_size(factors), rel=0.05)


def test_every_direction_of_a_persistent_gradient_gets_a_step_of_one_length() -> None:
    """Rows and columns of mean squares alone would leave the steps to the few directions in which a gradient is largest."""
    layer = square_layer(RGD(), 6)
    slope = orthonormal(6, 6) @ torch.diag(torch.logspace(0, -1.5, 6, dtype=F64)) @ orthonormal(6, 6).T
    before = layer.dense_weight().detach()
    after = run(layer, lambda module: (slope * module(torch.eye(6, dtype=F64)).T).sum(), torch.optim.Adam, 1, lr=0.01)[-1]
    assert torch.allclose(torch.linalg.svdvals(after - before), torch.full((6,), 0.01 * math.sqrt(6), dtype=F64), rtol=1e-4)


@each_method
@pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": False, "momentum": 0.5}, {"adjust_lr_fn": "match_rms_adamw"}, {"weight_decay": 1.0}],
    ids=["plain", "heavy ball", "match rms", "decay"],
)
def test_T33_muon_takes_the_sign_of_a_dense_momentum(method: Method, options: dict[str, Any]) -> None:
    layer = square_layer(method)
    loss, gradient = problem(layer)
    expected = muon(gradient, layer.dense_weight().detach(), 10, {"lr": 0.02, **options})
    assert_same(run(layer, loss, torch.optim.Muon, lr=0.02, **options), expected)


def dense_of(x: Factors, factors: Factors) -> Tensor:
    """Return X = X_K V^T + U X_L^T - U X_S V^T."""
    (u, v), (k, side) = factors.bases, x.bases
    return k @ v.T + u @ side.T - u @ x.core @ v.T


def slots(g: Tensor, factors: Factors) -> Factors:
    u, v = factors.bases
    return Factors(u.T @ g @ v, (g @ v, g.T @ u))


@pytest.mark.parametrize(("n", "m", "r"), [(9, 7, 3), (7, 20, 5), (6, 6, 6), (8, 3, 3)])
def test_the_orthogonalised_moment_is_the_tangent_part_of_the_matrix_sign(n: int, m: int, r: int, precision) -> None:
    dtype = precision.dtype
    factors = Factors(torch.randn(r, r, dtype=dtype), tuple(orthonormal(size, r).to(dtype) for size in (n, m)))
    x = slots(torch.randn(n, m, dtype=dtype), factors)
    dense = dense_of(x, factors)
    u, sigma, vh = torch.linalg.svd(dense.double(), full_matrices=False)
    held = sigma > 1e-5 * sigma[0]
    sign = (u[:, held] @ vh[held]).to(dtype)
    found, rank = tangent.orthogonalise(x, factors, cutoff=1e-5)
    assert int(rank) == int(held.sum()) == min(2 * r, n, m)
    assert torch.dist(dense_of(found, factors), linalg.tangent(sign, *factors.bases)) < precision.loose


def test_the_cutoff_leaves_small_directions_out_of_the_sign() -> None:
    """With X's singular vectors inside the bases the sign is known: one for what is held, nothing for the rest."""
    factors = Factors(torch.eye(4, dtype=F64), (orthonormal(9, 4), orthonormal(7, 4)))
    x = tangent.of_core(factors, torch.diag(torch.tensor([5.0, 2.0, 1e-2, 1e-9], dtype=F64)))
    u, v = factors.bases
    for cutoff, rank in ((1e-7, 3), (0.1, 2), (0.9, 1)):
        found, held = tangent.orthogonalise(x, factors, cutoff=cutoff)
        assert int(held) == rank
        assert torch.dist(dense_of(found, factors), u[:, :rank] @ v[:, :rank].T) < 1e-10


@pytest.mark.parametrize(("n", "m"), [(9, 4), (4, 9)])
@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_muon_scales_its_step_as_torch_does(n: int, m: int, adjust: str | None) -> None:
    """Without projection: rank 2 of a gradient in the bases' own span, whose sign has two singular values of 1."""
    factors = Factors(3 * torch.eye(2, dtype=F64), (orthonormal(n, 2), orthonormal(m, 2)))
    layer = LowRankLinear(factors)
    layer.method = RGD()
    u, v = factors.bases
    g, before, probe = (
        u @ torch.diag(torch.tensor([4.0, 0.5], dtype=F64)) @ v.T,
        layer.dense_weight().detach(),
        torch.eye(m, dtype=F64),
    )
    options = {"lr": 0.1, "weight_decay": 0.0, "adjust_lr_fn": adjust}
    (after,) = run(layer, lambda module: (g * module(probe).T).sum(), torch.optim.Muon, 1, **options)
    step = (before - after) / 0.1
    if adjust is None:
        assert torch.dist(step, math.sqrt(max(1, n / m)) * u @ v.T) < 1e-10
    else:
        assert float(step.square().mean().sqrt()) == pytest.approx(0.2)
        assert torch.dist(step / step.norm(), u @ v.T / math.sqrt(2)) < 1e-10


def test_what_is_not_factored_moves_beside_muon_as_by_adamw() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    twin = copy.deepcopy(net)
    compress(net, method="rgd", rank=1.0, exclude=["3"])
    for parameter in (net[0].core, *net[0].bases(), twin[0].weight):
        parameter.requires_grad_(False)
    ours = LowRankOptimizer(net, torch.optim.Muon, lr=0.03, weight_decay=0.2)
    theirs = torch.optim.AdamW([p for p in twin.parameters() if p.requires_grad], lr=0.03, weight_decay=0.2)
    x, y = torch.rand(12, 6, dtype=F64), torch.randint(0, 3, (12,))
    for _ in range(5):
        for model, opt in ((net, ours), (twin, theirs)):
            opt.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            opt.step()
    for name, parameter in twin.named_parameters():
        if name != "0.weight":
            assert torch.dist(parameter, net.get_parameter(name)) < 1e-10, name
    assert torch.dist(net[3].weight, twin[3].weight) < 1e-10


@pytest.mark.parametrize("name", ["Adagrad", "Adadelta", "Adamax", "RAdam", "ASGD", "Rprop", "Adafactor", "SparseAdam"])
def test_optimizers_without_a_meaning_are_refused_with_the_remedy(name: str) -> None:
    optimizer, net = getattr(torch.optim, name), nn.Sequential(square_layer(RGD()))
    with pytest.raises(UserError, match="moments='elementwise'") as refusal:
        LowRankOptimizer(net, optimizer, lr=0.1)
    assert name in str(refusal.value)
    free = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)).double()
    compress(free, method=Vanilla(), rank=2, exclude=["1"])
    for model in (free, nn.Linear(5, 5)):
        assert type(LowRankOptimizer(model, optimizer, lr=0.1).inner) is optimizer
    assert type(LowRankOptimizer(net, optimizer, lr=0.1, moments="elementwise").inner) is optimizer


def test_unknown_moments_are_refused_with_a_suggestion() -> None:
    with pytest.raises(UserError, match="did you mean 'elementwise'"):
        LowRankOptimizer(square_layer(RGD()), torch.optim.SGD, lr=0.1, moments="elementwis")  # pyright: ignore[reportArgumentType]


@each_method
def test_schedulers_move_rate_and_momentum_of_factors_as_of_dense_weights(method: Method) -> None:
    dense = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    factored = copy.deepcopy(dense)
    compress(factored, method=method, rank=1.0, exclude=["2"])
    x, y = torch.rand(16, 6, dtype=F64), torch.randint(0, 3, (16,))
    ours = LowRankOptimizer(factored, torch.optim.SGD, lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(dense.parameters(), lr=0.1, momentum=0.9)
    pairs = []
    for model, opt in ((factored, ours), (dense, theirs)):
        pairs.append((model, opt, torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.5, total_steps=10)))
    for _ in range(10):
        for model, opt, schedule in pairs:

            def closure(model: nn.Module = model, opt: torch.optim.Optimizer = opt) -> Tensor:
                opt.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                return loss

            opt.step(closure)
            schedule.step()
        assert torch.dist(factored[0].dense_weight(), dense[0].weight) < 1e-9
        assert torch.dist(factored[2].weight, dense[2].weight) < 1e-9


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop])
def test_every_group_has_a_rate_of_its_own(optimizer: type[torch.optim.Optimizer]) -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)).double()
    compress(net, method="rgd", rank=2, exclude=["1"])
    opt = LowRankOptimizer(net, optimizer, lr=0.1)
    groups = {group["name"]: group for group in opt.param_groups}
    weight, bias, head = net[0].dense_weight().detach(), net[0].bias.detach().clone(), net[1].weight.detach().clone()

    def step() -> None:
        opt.zero_grad()
        net(torch.rand(4, 6, dtype=F64)).square().sum().backward()
        opt.step()

    groups["cores"]["lr"] = 0.0
    step()
    assert torch.dist(net[0].dense_weight(), weight) < 1e-12
    assert torch.dist(net[0].bias, bias) > 1e-6 and torch.dist(net[1].weight, head) > 1e-6
    bias, head = net[0].bias.detach().clone(), net[1].weight.detach().clone()
    groups["cores"]["lr"], groups["dense"]["lr"] = 0.1, 0.0
    step()
    assert torch.dist(net[0].dense_weight(), weight) > 1e-6
    assert torch.equal(net[0].bias, bias) and torch.equal(net[1].weight, head)
