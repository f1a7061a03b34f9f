"""The norm of the gradient of the weights, against projections of dense gradients, and clipping by it."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import (
    DLRT,
    TDLRT,
    USV,
    CayleySGD,
    CondLR,
    GeoLoRA,
    LowRankOptimizer,
    RobustDLRT,
    ScaledLoRA,
    StelLA,
    UserError,
    Vanilla,
    adapt,
    clip_grad_norm_,
    compress,
    linalg,
)
from robust_lowrank.layers import FactoredLayer, named_factored_layers
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import Method
from tests.methods.catalogue import taken, with_each

DEFAULTS = {
    "dlrt": DLRT(),
    "dlrt tol": DLRT(tol=0.1),
    "tdlrt": TDLRT(),
    "tdlrt all": TDLRT(modes="all"),
    "geolora": GeoLoRA(),
    "geolora cond": GeoLoRA(cond=1.5),
    "robust dlrt": RobustDLRT(core_steps=2),
    "cayley": CayleySGD(),
}
METHODS = taken("condlr", "rgd", "usv", "vanilla") | DEFAULTS
each_method = with_each(METHODS)


class Mixed(nn.Module):
    """A convolution, a linear layer to be factored, and a normalisation and a head that stay dense."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.hidden = nn.Linear(20, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(torch.tanh(self.norm(self.stem(x))), 2).flatten(1)
        return self.head(torch.tanh(self.hidden(x)))


def network(method: Method, dtype: torch.dtype = torch.float64) -> nn.Module:
    net = Mixed().to(dtype)
    compress(net, method=method, rank=2 if method.ranked else None, exclude=["head"], init="kaiming")
    return net


def backward(net: nn.Module, factor: float = 1.0) -> None:
    dtype = next(net.parameters()).dtype
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(8, 3, 5, 5, dtype=torch.float64, generator=generator).to(dtype)
    y = torch.randint(0, 3, (8,), generator=generator)
    net.zero_grad()
    (factor * nn.functional.cross_entropy(net(x), y)).backward()


def projected_square(g: Tensor, factors: Factors) -> float:
    """Return ||P_T(G)||^2 by least squares on the derivative of the weight in its factors."""

    def weight(core: Tensor, *bases: Tensor) -> Tensor:
        return linalg.multi_product(core, bases).flatten()

    parts = torch.autograd.functional.jacobian(weight, (factors.core.double(), *(basis.double() for basis in factors.bases)))
    u, sigma, _ = torch.linalg.svd(torch.cat([part.flatten(1) for part in parts], 1), full_matrices=False)
    return float((u[:, sigma > 1e-8 * sigma[0]].T @ g.flatten().double()).square().sum())


def expected_norm(net: nn.Module) -> float:
    """Return the norm from a dense twin's gradients: of factored weights their tangent part, of all else all."""
    twin = copy.deepcopy(net)
    layers = dict(named_factored_layers(twin))
    for name, layer in layers.items():
        dense = layer.dense_layer()
        parent, _, child = name.rpartition(".")
        setattr(twin.get_submodule(parent), child, dense)
    backward(twin)
    weights = {f"{name}.weight": layer for name, layer in layers.items()}
    square = 0.0
    for name, parameter in twin.named_parameters():
        assert parameter.grad is not None
        if (layer := weights.get(name)) is None:
            square += float(parameter.grad.square().sum())
        else:
            square += projected_square(parameter.grad.reshape(shape_of(layer)), layer.factors())
    return math.sqrt(square)


def shape_of(layer: FactoredLayer) -> list[int]:
    core, bases = layer.factors()
    return [*map(len, bases), *core.shape[len(bases) :]]


ORTHONORMAL = {name: method for name, method in METHODS.items() if name not in {"usv", "vanilla", "cayley"}}


@pytest.mark.parametrize("method", ORTHONORMAL.values(), ids=ORTHONORMAL)
def test_the_norm_is_that_of_the_dense_gradients_tangent_part(method: Method, precision) -> None:
    net = network(method, precision.dtype)
    backward(net)
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    norm = clip_grad_norm_(net, math.inf)
    assert float(norm) == pytest.approx(expected_norm(net), rel=precision.loose)
    assert all(torch.equal(p.grad, before[name]) for name, p in net.named_parameters())
    summed = torch.stack([grad.norm() for grad in before.values()]).norm()
    assert float(summed) > 1.001 * float(norm), "the slots share parts, so that their sum is larger"


@pytest.mark.parametrize("method", [DLRT(tol=0.0), GeoLoRA(tol=0.0), TDLRT(tol=0.0)], ids=["dlrt", "geolora", "tdlrt"])
def test_the_norm_inside_a_window_is_that_in_the_augmented_bases(method: Method) -> None:
    """Twice the rank may be more than one side has: the core is not square then, and a slot is padded."""
    net = Mixed().double()
    compress(net, method=method, rank=4 if method.form == "matrix" else 3, exclude=["head"], init="kaiming")
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, step="amortised", window=3)
    backward(net)
    opt.step()
    assert not opt.settled
    if method.form == "matrix":
        assert net.hidden.core.shape[0] < net.hidden.core.shape[1]
    backward(net)
    assert float(clip_grad_norm_(net, math.inf)) == pytest.approx(expected_norm(net), rel=1e-8)


@pytest.mark.parametrize("method", [USV(), Vanilla(), CayleySGD()], ids=["usv", "vanilla", "cayley"])
def test_free_factors_and_dense_networks_have_torchs_norm(method: Method) -> None:
    for net in (network(method), Mixed().double()):
        twin = copy.deepcopy(net)
        for each in (net, twin):
            backward(each)
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
        assert float(clip_grad_norm_(net, 0.01)) == pytest.approx(float(norm), rel=1e-10)
        for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-3)


@each_method
def test_the_norm_after_clipping_is_the_largest_allowed(method: Method, precision) -> None:
    net = network(method, precision.dtype)
    backward(net)
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    norm = float(clip_grad_norm_(net, math.inf))
    largest = 0.3 * norm
    assert float(clip_grad_norm_(net, largest)) == pytest.approx(norm)
    assert float(clip_grad_norm_(net, largest)) == pytest.approx(largest, rel=1e-5)
    for name, parameter in net.named_parameters():
        assert torch.allclose(parameter.grad, 0.3 * before[name], rtol=1e-4, atol=1e-12), "one factor for all"
    clipped = {name: p.grad.clone() for name, p in net.named_parameters()}
    clip_grad_norm_(net, 1.01 * largest)
    assert all(torch.equal(p.grad, clipped[name]) for name, p in net.named_parameters()), "a smaller gradient stays"


@each_method
@pytest.mark.parametrize("step", ["exact", "amortised"])
def test_a_clipped_step_is_that_of_a_scaled_loss(method: Method, step) -> None:
    """Evaluation by evaluation: clipping in the closure and scaling the loss by the same factors agree."""
    net = network(method)
    twin = copy.deepcopy(net)
    options = {"lr": 0.1, "momentum": 0.9, "step": step}
    ours, theirs = (LowRankOptimizer(each, torch.optim.SGD, **options) for each in (net, twin))
    factors: list[float] = []

    def clipped() -> Tensor:
        backward(net)
        norm = clip_grad_norm_(net, 0.05)
        factors.append(min(1.0, 0.05 / float(norm)))
        return norm

    def scaled() -> Tensor:
        backward(twin, 2 * factors.pop(0))
        for parameter in twin.parameters():
            if parameter.grad is not None:
                parameter.grad *= 0.5  # exact, and as in clipping nothing is recalled
        return torch.zeros(())

    for _ in range(4):
        ours.step(clipped)
        assert all(factor < 1 for factor in factors)
        theirs.step(scaled)
    for name, layer in named_factored_layers(net):
        assert torch.dist(layer.dense_weight(), twin.get_submodule(name).dense_weight()) < 1e-10
    assert torch.dist(net.head.weight, twin.head.weight) < 1e-10


@pytest.mark.parametrize("method", [DLRT(tol=0.1), TDLRT(), RobustDLRT()], ids=["dlrt", "tdlrt", "robust dlrt"])
def test_gradients_of_cores_alone_count_as_they_are(method: Method) -> None:
    net = network(method)
    for _, layer in named_factored_layers(net):
        for basis in layer.bases():
            basis.requires_grad_(False)
    backward(net)
    summed = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None))
    assert float(clip_grad_norm_(net, 0.5 * summed)) == pytest.approx(summed, rel=1e-10)
    assert float(clip_grad_norm_(net, math.inf)) == pytest.approx(0.5 * summed, rel=1e-8)


@pytest.mark.parametrize(
    "method", [GeoLoRA(), StelLA(), ScaledLoRA(), CondLR()], ids=["geolora", "stella", "scaled-lora", "condlr"]
)
def test_adapters_are_clipped_by_what_trains(method: Method) -> None:
    net = Mixed().double()
    adapt(net, method=method, rank=2, alpha=4.0, exclude=["head"])
    backward(net)
    norm = float(clip_grad_norm_(net, math.inf))
    assert norm > 0
    assert float(clip_grad_norm_(net, norm / 2)) == pytest.approx(norm)
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.01)
    before = net.hidden.update.dense_weight().detach()
    for _ in range(2):
        backward(net)
        clip_grad_norm_(net, norm / 2)
        opt.step()
    assert torch.dist(net.hidden.update.dense_weight(), before) > 1e-4


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["head.weight", "hidden.S", "hidden.U"])
def test_a_norm_that_is_not_finite_is_told(value: float, where: str) -> None:
    net = network(GeoLoRA())
    backward(net)
    net.get_parameter(where).grad.view(-1)[0] = value
    before = {name: p.grad.clone() for name, p in net.named_parameters()}
    with pytest.raises(UserError, match="no factor that would clip"):
        clip_grad_norm_(net, 1.0, error_if_nonfinite=True)
    assert all(torch.equal(p.grad, before[name]) or name == where for name, p in net.named_parameters())
    assert not math.isfinite(float(clip_grad_norm_(net, 1.0)))


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_a_norm_that_nothing_has_is_refused(max_norm: float) -> None:
    net = network(GeoLoRA())
    backward(net)
    with pytest.raises(UserError, match="max_norm"):
        clip_grad_norm_(net, max_norm)


def test_without_gradients_there_is_nothing_to_clip() -> None:
    net = network(GeoLoRA())
    with pytest.raises(UserError, match="no parameter has a gradient"):
        clip_grad_norm_(net, 1.0)
    backward(net)
    net.zero_grad(set_to_none=False)
    assert float(clip_grad_norm_(net, 1.0)) == 0.0
    assert all(bool((p.grad == 0).all()) for p in net.parameters())
