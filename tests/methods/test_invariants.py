"""What each method's paper promises, on one layer whose gradient is known in closed form."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from robust_lowrank import DLRT, RGD, TDLRT, CondLR, GeoLoRA, LowRankOptimizer, RobustDLRT, linalg
from robust_lowrank.layers import FactoredLayer, LowRankConv, LowRankLinear, TuckerConv2d
from robust_lowrank.layers.conv import ConvShape
from robust_lowrank.layers.convolution import ConvGeometry
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import GalerkinMethod, Method, tangent
from robust_lowrank.methods.bases import augment, decompose, truncate
from robust_lowrank.methods.retraction import RetractionMethod
from tests.methods.catalogue import taken, with_each

F64 = torch.float64
INF = math.inf
CONDLR = ("condlr", "condlr tau=0", "condlr tau=inf", "condlr polar exact", "condlr repo", "condlr none")
GALERKIN = ("dlrt fixed", "dlrt", "tdlrt", "tdlrt fixed", "geolora", "geolora fixed", "robust dlrt", "rgd")
METHODS = taken(*CONDLR, *GALERKIN) | {"geolora budget": GeoLoRA(tol=0.0, budget=4)}
each_method = with_each(METHODS)


def truncated(factors: Factors, tol: float | None, before: tuple[int, int], minimum: int, maximum: int | None) -> Factors:
    method = DLRT(tol=tol, min_rank=minimum, max_rank=maximum)
    decompositions = decompose(factors)
    spectra = [each.sigma for each in decompositions]
    if tol is None or float(spectra[0][0]) == 0:
        return truncate(factors, decompositions, method.choose_ranks([spectra], [before], [None])[0].ranks)
    (theta,) = method.thresholds([spectra])
    ranks = [method.needed_rank(sigma, theta) for sigma in spectra]
    return truncate(factors, decompositions, tuple(ranks * 2 if len(ranks) == 1 else ranks))


def orthonormal(n: int, r: int, dtype: torch.dtype = F64) -> Tensor:
    return linalg.orth(torch.randn(n, r, dtype=dtype))


def layer_of(method: Method, n: int, m: int, r: int, *, dtype: torch.dtype = F64, core: Tensor | None = None) -> LowRankLinear:
    core = torch.randn(r, r, dtype=dtype) + 2 * torch.eye(r, dtype=dtype) if core is None else core
    factors = method.project(Factors(core, (orthonormal(n, r, dtype), orthonormal(m, r, dtype))))
    layer = LowRankLinear(factors)
    layer.method = method
    return layer


Loss = Callable[[Tensor], Tensor]


def quadratic(target: Tensor) -> Loss:
    """Return 1/2 ||W - A||^2, whose gradient is W - A."""
    return lambda w: 0.5 * (w - target).square().sum()


def closure_of(layer: FactoredLayer, opt: torch.optim.Optimizer, loss: Loss) -> Callable[[], Tensor]:
    """Return a closure that probes the layer with the identity, so that its weight gradient is that of `loss`."""
    probe = torch.eye(layer.weight_shape[1], dtype=layer.core.dtype)

    def closure() -> Tensor:
        opt.zero_grad()
        value = loss(layer(probe).T)
        value.backward()
        return value

    return closure


def train(layer: FactoredLayer, loss: Loss, steps: int, **options: float) -> LowRankOptimizer:
    opt = LowRankOptimizer(layer, torch.optim.SGD, **options)
    for _ in range(steps):
        opt.step(closure_of(layer, opt, loss))
    return opt


def weight(layer: FactoredLayer) -> Tensor:
    return layer.dense_weight().detach()


def cond(layer: FactoredLayer) -> float:
    sigma = layer.singular_values()
    return float(sigma[0] / sigma[-1])


def projected(g: Tensor, factors: Factors) -> Factors:
    """Return (dS, (dK, dL)) from a gradient that is known."""
    u, v = factors.bases
    return Factors(u.T @ g @ v, (g @ v, g.T @ u))


def compose(factors: Factors) -> Tensor:
    return factors.bases[0] @ factors.core @ factors.bases[1].T


def defect(layer: FactoredLayer) -> float:
    return max(float(torch.dist(b.mT @ b, torch.eye(b.shape[1], dtype=b.dtype))) for b in (b.detach() for b in layer.bases()))


def conv_layers(method: Method, dtype: torch.dtype) -> FactoredLayer:
    shape = ConvShape(5, (3, 3), ConvGeometry((1, 1), (1, 1), (1, 1)))
    if method.form == "channels":
        factors = Factors(torch.randn(4, 3, 3, 3, dtype=dtype), (orthonormal(7, 4, dtype), orthonormal(5, 3, dtype)))
        layer = TuckerConv2d(method.project(factors), shape)
    else:
        factors = Factors(torch.randn(4, 4, dtype=dtype), (orthonormal(7, 4, dtype), orthonormal(45, 4, dtype)))
        layer = LowRankConv(method.project(factors), shape)
    layer.method = method
    return layer


@pytest.mark.sampled(3)
@each_method
@pytest.mark.parametrize("optimizer", [{"momentum": 0.9, "weight_decay": 0.01}, "adamw"], ids=["sgd", "adamw"])
def test_T1_bases_stay_orthonormal(method: Method, optimizer: dict | str, precision) -> None:
    dtype = precision.dtype
    x = torch.randn(6, 5, 6, 6, dtype=dtype)
    for layer, inputs in (
        (layer_of(method, 9, 7, 4, dtype=dtype), torch.randn(8, 7, dtype=dtype)),
        (conv_layers(method, dtype), x),
    ):
        if isinstance(optimizer, dict):
            opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.05, **optimizer)
        else:
            opt = LowRankOptimizer(layer, torch.optim.AdamW, lr=0.05, weight_decay=0.1)
        for _ in range(20):
            target = torch.randn_like(layer(inputs))

            def closure(opt=opt, layer=layer, inputs=inputs, target=target) -> Tensor:
                opt.zero_grad()
                loss = (layer(inputs) - target).square().mean()
                loss.backward()
                return loss

            opt.step(closure)
            assert defect(layer) < precision.tight


@pytest.mark.sampled(4)
@pytest.mark.parametrize("reference", ["rms", "mean", "exact"])
@pytest.mark.parametrize("retraction", ["qr", "polar"])
@pytest.mark.parametrize("precond", ["exact", "repo", "none"])
@pytest.mark.parametrize("tau", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_T2_condition_number_is_bounded(reference, retraction, precond, tau, scale, precision) -> None:
    method = CondLR(tau=tau, reference=reference, retraction=retraction, precond=precond)
    layer = layer_of(method, 9, 7, 4, dtype=precision.dtype)
    opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.1, momentum=0.5)
    slack = 1e-10 if precision.dtype == F64 else 1e-4
    for _ in range(5):
        g = scale * torch.randn(9, 7, dtype=precision.dtype)
        opt.step(closure_of(layer, opt, lambda w, g=g: (w * g).sum()))
        assert cond(layer) <= (1 + tau) * (1 + slack)
        assert defect(layer) < precision.tight


def test_T3_tau_zero_keeps_the_core_a_multiple_of_an_orthogonal_matrix(precision) -> None:
    layer = layer_of(CondLR(tau=0.0), 9, 7, 4, dtype=precision.dtype)
    opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.1, momentum=0.9)
    target = torch.randn(9, 7, dtype=precision.dtype)
    for _ in range(20):
        opt.step(closure_of(layer, opt, quadratic(target)))
        s = layer.S.detach()
        square = s.square().sum() / 4
        assert torch.dist(s.T @ s, square * torch.eye(4, dtype=s.dtype)) <= precision.tight * square


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("method", taken(*CONDLR).values(), ids=CONDLR)
def test_a_descent_with_few_products_is_the_retraction_of_the_directions(method: CondLR, dtype: torch.dtype) -> None:
    factors = layer_of(method, 30, 20, 5, dtype=dtype).factors()
    u, v = factors.bases
    g = torch.randn(30, 20, dtype=dtype)
    gradients, rates = Factors(u.T @ g @ v, (g @ v, g.T @ u)), (0.05, 0.02)
    core = factors.core - 0.1 * gradients.core
    found = method.project(method.descend(factors, gradients, core, rates))
    plain = RetractionMethod.descend(method, factors, gradients, core, rates)
    for one, other in zip((found.core, *found.bases), (plain.core, *plain.bases), strict=True):
        assert float((one - other).abs().max()) < (1e-13 if dtype == F64 else 3e-6)


@pytest.mark.parametrize(("precond", "low", "high"), [("exact", 1.9, 2.1), ("repo", 0.9, 1.1), ("none", 0.9, 1.1)])
@pytest.mark.parametrize("retraction", ["qr", "polar"])
def test_T7_the_exact_step_is_riemannian_to_first_order(precond, low, high, retraction) -> None:
    method = CondLR(tau=INF, precond=precond, retraction=retraction)
    start, target = layer_of(method, 9, 7, 4), torch.randn(9, 7, dtype=F64)
    before, (u, v) = weight(start), (b.detach() for b in start.bases())
    step = linalg.tangent(before - target, u, v)
    rates, errors = [1e-2, 1e-3, 1e-4], []
    for lr in rates:
        layer = LowRankLinear(start.factors())
        layer.method = method
        train(layer, quadratic(target), 1, lr=lr)
        errors.append(float(torch.dist(weight(layer), before - lr * step)))
    slope = math.log(errors[0] / errors[-1]) / math.log(rates[0] / rates[-1])
    assert low <= slope <= high


@each_method
def test_T8_T28_complete_bases_give_sgd_with_momentum(method: Method) -> None:
    """CondLR without its clamp, DLRT, TDLRT and GeoLoRA all reduce to momentum SGD on W."""
    if isinstance(method, CondLR):
        method = replace(method, tau=INF)
    elif isinstance(method, GalerkinMethod) and method.tol is not None:
        method = replace(method, tol=0.0)
    if isinstance(method, GeoLoRA):
        method = replace(method, budget=None)
    elif isinstance(method, RobustDLRT):
        method = replace(method, beta=0.0, core_steps=1)
    n = 5
    layer, target = layer_of(method, n, n, n), torch.randn(n, n, dtype=F64)
    w, momentum = weight(layer).clone(), torch.zeros(n, n, dtype=F64)
    opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(10):
        opt.step(closure_of(layer, opt, quadratic(target)))
        momentum = 0.9 * momentum + (w - target)
        w = w - 0.1 * momentum
        assert torch.dist(weight(layer), w) < 1e-10


@pytest.mark.parametrize("nesterov", [False, True])
def test_T28_momentum_outside_the_bases_is_projected_and_not_lost(nesterov: bool, precision) -> None:
    """RGD beside the same on dense matrices: a moment that stayed in the core alone would fall behind at the first cut."""
    target, r, lr, mu = torch.randn(9, 7, dtype=precision.dtype), 3, 0.1, 0.9
    layer = layer_of(RGD(), 9, 7, r, dtype=precision.dtype)
    w, moment = weight(layer).clone(), torch.zeros_like(target)
    opt = LowRankOptimizer(layer, torch.optim.SGD, lr=lr, momentum=mu, nesterov=nesterov)
    for _ in range(10):
        opt.step(closure_of(layer, opt, quadratic(target)))
        u, _, vh = torch.linalg.svd(w)
        u, v = u[:, :r], vh[:r].T
        g = linalg.tangent(w - target, u, v)
        moment = mu * linalg.tangent(moment, u, v) + g
        u, sigma, vh = torch.linalg.svd(w - lr * (g + mu * moment if nesterov else moment))
        w = u[:, :r] * sigma[:r] @ vh[:r]
        assert torch.dist(weight(layer), w) < 20 * precision.loose


@each_method
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD], ids=["adam", "sgd"])
def test_the_state_of_a_layer_is_no_larger_than_its_factors_and_two_vectors(method: Method, optimizer) -> None:
    n, m, r = 30, 20, 4
    layer = layer_of(method, n, m, r)
    opt = LowRankOptimizer(layer, optimizer, lr=0.01, **({"momentum": 0.9} if optimizer is torch.optim.SGD else {}))
    for _ in range(3):
        opt.step(closure_of(layer, opt, quadratic(torch.randn(n, m, dtype=F64))))
    held = [value for state in opt.state.values() for entry in state.values() for value in tensors(entry)]
    assert sum(value.numel() for value in held if value.ndim) <= layer.weight_parameters() + n + m
    assert any(value.ndim for value in held)


def tensors(entry: object) -> list[Tensor]:
    """Return the tensors in an entry of a state."""
    parts = entry if isinstance(entry, tuple | list) else [entry]
    return [part for part in parts if isinstance(part, Tensor)]


@pytest.mark.parametrize(
    "method",
    [m for m in METHODS.values() if not isinstance(m, CondLR)] + [CondLR(tau=tau, retraction="polar") for tau in (0.1, INF)],
)
def test_T9_steps_do_not_depend_on_the_choice_of_bases(method: Method) -> None:
    """With the QR retraction CondLR depends on it to second order, so it stands here with the polar one."""
    layer, target = layer_of(method, 9, 7, 4), torch.randn(9, 7, dtype=F64)
    s, (u, v) = layer.factors()
    a, b = orthonormal(4, 4), orthonormal(4, 4)
    other = LowRankLinear(Factors(a.T @ s @ b, (u @ a, v @ b)))
    other.method = method
    for each in (layer, other):
        train(each, quadratic(target), 10, lr=0.1, momentum=0.5)
    assert torch.dist(weight(layer), weight(other)) < 1e-10


@pytest.mark.parametrize(("n", "m", "r"), [(9, 7, 3), (7, 20, 5), (6, 6, 6)])
def test_T11_T27_augmentation_loses_nothing(n: int, m: int, r: int, precision) -> None:
    dtype = precision.dtype
    factors = Factors(torch.randn(r, r, dtype=dtype), (orthonormal(n, r, dtype), orthonormal(m, r, dtype)))
    g = torch.randn(n, m, dtype=dtype)
    wide = augment(factors, projected(g, factors))
    assert [basis.shape[1] for basis in wide.bases] == [min(2 * r, n), min(2 * r, m)]
    assert torch.dist(compose(wide), compose(factors)) < precision.tight * 10
    for basis in wide.bases:
        assert torch.dist(basis.T @ basis, torch.eye(basis.shape[1], dtype=dtype)) < precision.tight


def test_T11_tucker_augmentation_loses_nothing() -> None:
    factors = Factors(torch.randn(3, 2, 3, 3, dtype=F64), (orthonormal(8, 3), orthonormal(5, 2)))
    wide = augment(factors, Factors(factors.core, (torch.randn(8, 3, dtype=F64), torch.randn(5, 2, dtype=F64))))
    assert wide.core.shape == (6, 4, 3, 3)
    expanded, original = (linalg.multi_product(f.core, f.bases) for f in (wide, factors))
    assert torch.dist(expanded, original) < 1e-12


def test_the_core_gradient_of_a_kernel_keeps_its_place_in_wider_bases() -> None:
    old = Factors(torch.randn(3, 2, 3, 3, dtype=F64), (orthonormal(8, 3), orthonormal(5, 2)))
    gradients = Factors(torch.randn_like(old.core), (torch.randn(8, 3, dtype=F64), torch.randn(5, 2, dtype=F64)))
    bases = tuple(linalg.extend(basis, side) for basis, side in zip(old.bases, gradients.bases, strict=True))
    inside = Factors(gradients.core, tangent.of_core(old, gradients.core).bases)
    for method in (TDLRT(), RobustDLRT()):
        gradient = method.core_direction(old, inside, bases, outside=1.0)
        assert torch.dist(linalg.multi_product(gradient, bases), linalg.multi_product(gradients.core, old.bases)) < 1e-12


def test_T12_truncation_error_is_the_tail_norm(precision) -> None:
    """A core that is far from symmetric: rotating V by the transposed matrix would show."""
    dtype = precision.dtype
    factors = Factors(torch.randn(6, 6, dtype=dtype), (orthonormal(10, 6, dtype), orthonormal(9, 6, dtype)))
    sigma = torch.linalg.svdvals(factors.core)
    for r in range(1, 6):
        tail = sigma[r:].norm()
        tol = float(tail / sigma.norm()) * (1 + 1e-5)
        cut = truncated(factors, tol, (6, 6), 1, None)
        assert cut.core.shape == (r, r)
        assert abs(torch.dist(compose(cut), compose(factors)) - tail) < precision.tight * 10
    whole = truncated(factors, 0.0, (6, 6), 2, None)
    assert torch.dist(compose(whole), compose(factors)) < precision.tight * 10
    rectangular = factors._replace(core=factors.core[:, :4], bases=(factors.bases[0], factors.bases[1][:, :4]))
    assert torch.dist(compose(truncated(rectangular, 0.0, (4, 4), 2, None)), compose(rectangular)) < precision.tight * 10


def test_truncation_keeps_a_zero_core_and_respects_its_bounds() -> None:
    zero = Factors(torch.zeros(4, 4), (orthonormal(6, 4).float(), orthonormal(6, 4).float()))
    kept = truncated(zero, 0.5, (4, 4), 2, None)
    assert kept.core.shape == (4, 4)
    assert torch.equal(kept.core, zero.core)
    factors = zero._replace(core=torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0])))
    assert truncated(factors, 0.9, (4, 4), 2, None).core.shape == (2, 2)
    assert truncated(factors, 0.0, (4, 4), 2, 3).core.shape == (3, 3)
    assert truncated(factors, None, (3, 3), 2, None).core.shape == (3, 3)


def test_tucker_truncation_error_is_bounded_by_its_tails() -> None:
    factors = Factors(torch.randn(6, 5, 3, 3, dtype=F64), (orthonormal(8, 6), orthonormal(7, 5)))
    tol = 0.5
    cut = truncated(factors, tol, (6, 5), 2, None)
    assert cut.core.shape[0] < 6 and cut.core.shape[1] < 5
    error = torch.dist(*(linalg.multi_product(f.core, f.bases) for f in (cut, factors)))
    assert error <= tol * math.sqrt(2) * factors.core.norm()
    for basis in cut.bases:
        assert torch.dist(basis.T @ basis, torch.eye(basis.shape[1], dtype=F64)) < 1e-12


@pytest.mark.parametrize("method", [DLRT(), DLRT(tol=1e-8), TDLRT(tol=1e-8)], ids=["fixed", "adaptive", "tdlrt"])
def test_T13_one_step_finds_a_target_of_the_rank(method: Method) -> None:
    target = torch.randn(9, 3, dtype=F64) @ torch.randn(3, 7, dtype=F64)
    layer = layer_of(method, 9, 7, 3)
    train(layer, quadratic(target), 1, lr=1.0)
    assert torch.dist(weight(layer), target) < 1e-10
    assert layer.rank == 3


@pytest.mark.parametrize(("n", "m", "r"), [(9, 7, 3), (7, 20, 5)])
def test_T14_T27_T28_geolora_moves_along_the_tangent_projection(n: int, m: int, r: int, precision) -> None:
    dtype, lr = precision.dtype, 0.3
    factors = Factors(torch.randn(r, r, dtype=dtype), (orthonormal(n, r, dtype), orthonormal(m, r, dtype)))
    g = torch.randn(n, m, dtype=dtype)
    wide = GeoLoRA().expand(factors, projected(g, factors), lr)
    gradient = tangent.core_between(projected(g, factors), factors, wide.bases)
    step = linalg.tangent(g, *factors.bases)
    u, v = wide.bases
    assert torch.dist(u @ gradient @ v.T, step) < precision.tight * 20
    moved = compose(wide._replace(core=wide.core - lr * gradient))
    assert torch.dist(moved, compose(factors) - lr * step) < precision.tight * 20


def test_T15_geolora_at_fixed_rank_is_riemannian_gradient_descent() -> None:
    target, r, lr = torch.randn(9, 7, dtype=F64), 3, 0.2
    layer = layer_of(GeoLoRA(tol=None), 9, 7, r)
    w = weight(layer)
    opt = LowRankOptimizer(layer, torch.optim.SGD, lr=lr)
    for _ in range(20):
        opt.step(closure_of(layer, opt, quadratic(target)))
        u, sigma, vh = torch.linalg.svd(w)
        moved = w - lr * linalg.tangent(w - target, u[:, :r], vh[:r].T)
        u, sigma, vh = torch.linalg.svd(moved)
        w = u[:, :r] * sigma[:r] @ vh[:r]
        assert torch.dist(weight(layer), w) < 1e-9


@pytest.mark.parametrize("method", [DLRT(tol=0.0), GeoLoRA(tol=0.0), TDLRT(tol=0.0)], ids=["dlrt", "geolora", "tdlrt"])
@pytest.mark.parametrize("smallest", [1e-3, 1e-12])
def test_T16_small_singular_values_do_no_harm(method: Method, smallest: float, precision) -> None:
    dtype, lr = precision.dtype, 0.1
    core = torch.diag(torch.logspace(0, math.log10(smallest), 4, dtype=dtype))
    layer, target = layer_of(method, 9, 7, 4, core=core, dtype=dtype), torch.randn(9, 7, dtype=dtype)
    before = weight(layer)
    g = before - target
    train(layer, quadratic(target), 1, lr=lr)
    assert torch.isfinite(weight(layer)).all()
    assert torch.dist(weight(layer), before - lr * g) <= lr * g.norm() * (1 + precision.loose)


def test_T16_fixed_rank_dlrt_stays_finite_with_small_singular_values() -> None:
    layer = layer_of(DLRT(), 9, 7, 4, core=torch.diag(torch.logspace(0, -12, 4, dtype=F64)))
    train(layer, quadratic(torch.randn(9, 7, dtype=F64)), 5, lr=0.1, momentum=0.9)
    assert torch.isfinite(weight(layer)).all()


def test_T17_geolora_descends_as_its_projected_gradient_promises() -> None:
    target, lr = torch.randn(9, 7, dtype=F64), 0.5
    loss = quadratic(target)
    layer = layer_of(GeoLoRA(tol=1e-3), 9, 7, 3)
    opt = LowRankOptimizer(layer, torch.optim.SGD, lr=lr)
    for _ in range(15):
        w = weight(layer)
        squared = linalg.tangent(w - target, *(b.detach() for b in layer.bases())).square().sum()
        opt.step(closure_of(layer, opt, loss))
        theta = 1e-3 * weight(layer).norm() * 1.01
        slack = (w - target).norm() * theta + theta**2 / 2
        assert loss(weight(layer)) <= loss(w) - lr * (1 - lr / 2) * squared + slack + 1e-10


RATES = {
    "large": (torch.optim.SGD, {"lr": 0.3}, 60),
    "small": (torch.optim.SGD, {"lr": 0.03, "momentum": 0.9}, 120),
    "adam": (torch.optim.Adam, {"lr": 0.03}, 160),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", [DLRT(tol=0.05), GeoLoRA(tol=0.05), TDLRT(tol=0.05)], ids=["dlrt", "geolora", "tdlrt"])
@pytest.mark.parametrize("start", [2, 16])
@pytest.mark.parametrize("rate", RATES)
def test_T18_the_planted_rank_is_found_from_below_and_above(method: Method, start: int, rate: str) -> None:
    u, v = orthonormal(24, 4), orthonormal(20, 4)
    target = u * torch.tensor([4.0, 3.0, 3.0, 2.0], dtype=F64) @ v.T
    layer = layer_of(method, 24, 20, start)
    optimizer, options, steps = RATES[rate]
    opt = LowRankOptimizer(layer, optimizer, **options)
    for _ in range(steps):
        opt.step(closure_of(layer, opt, quadratic(target)))
    assert layer.rank == 4
    assert torch.dist(weight(layer), target) < (1e-6 if rate == "large" else 1e-2)


@pytest.mark.parametrize("method", [DLRT(tol=0.05), GeoLoRA(tol=0.05), TDLRT(tol=0.05)], ids=["dlrt", "geolora", "tdlrt"])
def test_a_direction_that_one_step_leaves_too_small_for_the_weight_adds_up(method: Method) -> None:
    """A step makes .03 * .5 of the third direction, and the weight takes it from a tenth of .05 * 5."""
    u, v = orthonormal(24, 3), orthonormal(20, 3)
    target = u * torch.tensor([4.0, 3.0, 0.5], dtype=F64) @ v.T
    layer = layer_of(method, 24, 20, 2)
    layer.set_factors(Factors(torch.tensor([4.0, 3.0], dtype=F64).diag(), (u[:, :2], v[:, :2])))
    opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.03)
    for _ in range(100):
        opt.step(closure_of(layer, opt, quadratic(target)))
    assert layer.rank == 3
    assert torch.dist(weight(layer), target) < 0.05


def test_T23_tucker_of_a_pointwise_kernel_equals_the_matrix_method() -> None:
    shape = ConvShape(7, (1, 1), ConvGeometry((1, 1), (0, 0), (1, 1)))
    s, (u, v) = torch.randn(3, 3, dtype=F64), (orthonormal(9, 3), orthonormal(7, 3))
    tucker = TuckerConv2d(Factors(s[:, :, None, None], (u, v)), shape)
    matrix = LowRankConv(Factors(s, (u, v)), shape)
    tucker.method, matrix.method = TDLRT(tol=0.1), DLRT(tol=0.1)
    x, target = torch.randn(4, 7, 3, 3, dtype=F64), torch.randn(4, 9, 3, 3, dtype=F64)
    for layer in (tucker, matrix):
        opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.2, momentum=0.5)
        for _ in range(10):

            def closure(opt=opt, layer=layer) -> Tensor:
                opt.zero_grad()
                loss = (layer(x) - target).square().sum() / 36
                loss.backward()
                return loss

            opt.step(closure)
    assert tucker.rank == matrix.rank
    assert torch.dist(weight(tucker), weight(matrix)) < 1e-10


def test_a_single_linear_layer_trains_the_same_by_tdlrt_and_dlrt() -> None:
    target = torch.randn(9, 7, dtype=F64)
    core, bases = torch.randn(3, 3, dtype=F64), (orthonormal(9, 3), orthonormal(7, 3))
    trained = []
    for method in (DLRT(tol=0.1), TDLRT(tol=0.1)):
        layer = LowRankLinear(Factors(core, bases))
        layer.method = method
        train(layer, quadratic(target), 10, lr=0.2, momentum=0.5)
        trained.append(weight(layer))
    assert torch.dist(*trained) < 1e-10


@pytest.mark.parametrize("method", [DLRT(tol=0.0, max_rank=5), GeoLoRA(tol=0.0, max_rank=5)], ids=["dlrt", "geolora"])
def test_T27_bases_still_turn_at_the_largest_rank(method: Method) -> None:
    layer, target = layer_of(method, 9, 7, 5), torch.randn(9, 7, dtype=F64)
    before = layer.U.detach().clone()
    train(layer, quadratic(target), 1, lr=0.3)
    assert layer.rank == 5
    assert torch.linalg.svdvals(before.T @ layer.U.detach())[-1] < 1 - 1e-6


def test_the_loss_that_step_returns_is_that_at_its_start() -> None:
    for method in METHODS.values():
        layer, target = layer_of(method, 9, 7, 4), torch.randn(9, 7, dtype=F64)
        opt = LowRankOptimizer(layer, torch.optim.SGD, lr=0.1)
        expected = quadratic(target)(weight(layer))
        assert torch.allclose(opt.step(closure_of(layer, opt, quadratic(target))), expected)
