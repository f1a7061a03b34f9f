"""Baselines of full rank: where their weights live, how they step, and that they find what can be found."""

import math

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import (
    CayleySGD,
    Landing,
    LowRankOptimizer,
    ProjectedSGD,
    SpectralClamp,
    UserError,
    compress,
    export,
    load,
    plan,
    save,
    spectra,
)
from robust_lowrank.compression import count_parameters
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.methods import RetractionMethod
from robust_lowrank.methods.stiefel import cayley, halve_until_safe, landing_field, nearest, tangent

F64 = torch.float64
EXACT = {"qr": ProjectedSGD(), "polar": ProjectedSGD(retraction="polar"), "cayley": CayleySGD()}
METHODS: dict[str, RetractionMethod] = {**EXACT, "landing": Landing(), "clamp": SpectralClamp(cond=1.3)}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
each_exact = pytest.mark.parametrize("method", EXACT.values(), ids=EXACT)


def orthonormal(p: int, n: int, dtype: torch.dtype = F64) -> Tensor:
    return nearest(torch.randn(p, n, dtype=dtype))


def defect(w: Tensor) -> float:
    w = w.detach().flatten(1)
    square = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return float(torch.dist(square, torch.eye(len(square), dtype=w.dtype)))


def network(method: RetractionMethod, dtype: torch.dtype = F64) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8), nn.Linear(8, 12), nn.Linear(12, 3)
    )
    net = net.to(dtype)
    compress(net, method=method, exclude=["5"])
    return net


def step(net: nn.Module, opt: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    def closure() -> Tensor:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    return float(opt.step(closure).detach())


@each_method
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_stay_where_they_belong(method: RetractionMethod, optimizer: str, precision) -> None:
    net = network(method, precision.dtype)
    if optimizer == "sgd":
        opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    else:
        opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.05, weight_decay=0.1)
    x, y = torch.rand(32, 2, 4, 4, dtype=precision.dtype), torch.randint(0, 3, (32,))
    losses = []
    for _ in range(60):
        losses.append(step(net, opt, x, y))
        for _, layer in named_factored_layers(net):
            sigma = layer.singular_values()
            if method in EXACT.values():
                assert defect(layer.core) < precision.tight
            elif isinstance(method, Landing):
                assert defect(layer.core) <= 0.5 + precision.loose
            assert sigma[0] / sigma[-1] <= method.cond_bound * (1 + precision.loose)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("p", [3, 7])
def test_tangent_vectors_are_tangent_and_the_projection_is_orthogonal(p: int) -> None:
    x, z = orthonormal(p, 7), torch.randn(p, 7, dtype=F64)
    t = tangent(x, z)
    assert torch.dist(t @ x.T, -(x @ t.T)) < 1e-12
    assert torch.dist(tangent(x, t), t) < 1e-12
    assert abs(float(((z - t) * tangent(x, torch.randn(p, 7, dtype=F64))).sum())) < 1e-12


@each_exact
def test_a_step_follows_the_riemannian_gradient_to_first_order(method: RetractionMethod) -> None:
    x, g = orthonormal(4, 9), torch.randn(4, 9, dtype=F64)
    rates, errors = [1e-2, 1e-3, 1e-4], []
    for lr in rates:
        moved = method.move(x, -lr * g)  # pyright: ignore[reportAttributeAccessIssue]
        errors.append(float(torch.dist(moved, x - lr * tangent(x, g))))
    slope = math.log(errors[0] / errors[-1]) / math.log(rates[0] / rates[-1])
    assert 1.9 <= slope <= 2.1


def test_the_sweeps_converge_to_the_cayley_transform() -> None:
    x, d = orthonormal(3, 8), 0.05 * torch.randn(3, 8, dtype=F64)
    a = d.T - x.T @ (x @ d.T) / 2
    k = a @ x - x.T @ a.T
    eye = torch.eye(8, dtype=F64)
    exact = torch.linalg.solve(eye - k / 2, (eye + k / 2) @ x.T).T
    errors = [float(torch.dist(cayley(x, d, sweeps), exact)) for sweeps in (1, 2, 4, 20)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[3] < 1e-13
    assert defect(exact) < 1e-12


def test_a_long_step_is_shortened_where_the_sweeps_would_diverge() -> None:
    x, d = orthonormal(3, 8), 1e3 * torch.randn(3, 8, dtype=F64)
    moved = CayleySGD(sweeps=30).move(x, d)
    assert defect(moved) < 1e-12
    assert torch.dist(moved, x) < 2


def test_the_landing_field_is_skew_on_the_manifold_and_attractive_off_it() -> None:
    x, g = orthonormal(3, 8), torch.randn(3, 8, dtype=F64)
    field = landing_field(x, g, 1.0)
    skewed = (x.T @ g - g.T @ x) / 2
    assert torch.dist(field, x @ skewed) < 1e-12
    off = 1.1 * x
    assert (landing_field(off, torch.zeros_like(g), 1.0) * off).sum() > 0


def test_landing_never_leaves_its_neighbourhood() -> None:
    x = orthonormal(4, 6)
    for _ in range(30):
        x = halve_until_safe(x, torch.randn(4, 6, dtype=F64))
        assert defect(x) <= 0.5 + 1e-12


@pytest.mark.sampled(3)
@each_method
@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)], ids=str)
def test_a_procrustes_problem_is_solved(method: RetractionMethod, shape: tuple[int, int]) -> None:
    """min ||W - B|| has the polar factor of B as its solution, and with a clamp the clamped B: momentum included."""
    b = torch.randn(*shape, dtype=F64)
    start = torch.linalg.qr(b.flatten(1) if shape[0] >= shape[1] else b.T).Q
    near = (start if shape[0] >= shape[1] else start.T) + 0.1 * torch.randn(*shape, dtype=F64)
    net = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False).double())
    net[0].weight.data = near
    compress(net, method=SpectralClamp(cond=1.3, reference="exact") if isinstance(method, SpectralClamp) else method)
    eye = torch.eye(shape[1], dtype=F64)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.05, momentum=0.8)
    for _ in range(800):
        opt.zero_grad()
        loss = 0.5 * (net(eye).T - b).square().sum()
        loss.backward()
        opt.step()
    u, sigma, vh = torch.linalg.svd(b, full_matrices=False)
    if isinstance(method, SpectralClamp):
        w = net[0].weight.detach()
        assert 0.5 * (w - b).square().sum() <= 0.5 * (sigma.std() ** 2 * len(sigma))
    else:
        determinant_differs = shape[0] == shape[1] and torch.linalg.det(u @ vh) * torch.linalg.det(near) < 0
        if not determinant_differs:
            assert torch.dist(net[0].weight.detach(), u @ vh) < 1e-5


@each_method
def test_momentum_accumulates(method: RetractionMethod) -> None:
    moved = []
    for momentum in (0.0, 0.9):
        torch.manual_seed(0)
        net = network(method)
        opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01, momentum=momentum)
        before = net[3].weight.detach().clone()
        x, y = torch.rand(32, 2, 4, 4, dtype=F64), torch.randint(0, 3, (32,))
        for _ in range(10):
            step(net, opt, x, y)
        moved.append(float(torch.dist(net[3].weight.detach(), before)))
    assert moved[1] > 2 * moved[0]


@each_method
def test_checkpoint_export_plan_and_counts(method: RetractionMethod, tmp_path) -> None:
    net = network(method)
    x = torch.rand(3, 2, 4, 4, dtype=F64)
    save(net, tmp_path / "net.safetensors")
    dense = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 8), nn.Linear(8, 12), nn.Linear(12, 3)
    )
    assert torch.equal(load(dense.double(), tmp_path / "net.safetensors")(x), net(x))
    assert torch.equal(export(net)(x), net(x))
    assert all(type(module).__module__.startswith("torch.nn") for module in export(net).modules())
    counted = count_parameters(net)
    assert (counted.removed, counted.rank_fraction, counted.total) == (0.0, 1.0, counted.dense)
    frame = spectra(net)
    assert frame[frame["factored"]]["cond"].max() <= method.cond_bound * (1 + 1e-9)


def test_a_rank_is_refused_and_the_plan_shows_whole_weights() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    with pytest.raises(UserError, match="leave rank out"):
        compress(net, method="projected-sgd", rank=0.5)
    assert plan(net, method="projected-sgd")["params"].tolist() == [30, 20]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProjectedSGD(retraction="pola"), "did you mean 'polar'"),
        (lambda: CayleySGD(sweeps=0), "below 1"),
        (lambda: Landing(attraction=0.0), "positive"),
        (lambda: SpectralClamp(cond=0.9), "below 1"),
        (lambda: SpectralClamp(reference="mid"), "Known"),
    ],
)
def test_settings_out_of_range_are_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
