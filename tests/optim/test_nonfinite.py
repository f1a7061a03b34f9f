import copy
import math

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import LowRankOptimizer, UserError, adapt, clip_grad_norm_, compress
from robust_lowrank.errors import TrainingError
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import (
    SVD,
    AdaLoRA,
    CayleySGD,
    CondLR,
    GeoLoRA,
    Landing,
    LoRA,
    Method,
    ProjectedSGD,
    ScaledLoRA,
    SpectralClamp,
    StelLA,
)
from robust_lowrank.optim import nonfinite
from tests.methods.catalogue import METHODS, with_each

WHOLE = {
    "projected": ProjectedSGD(),
    "projected polar": ProjectedSGD(retraction="polar"),
    "cayley": CayleySGD(),
    "landing": Landing(),
    "clamp": SpectralClamp(),
    "clamp exact": SpectralClamp(reference="exact"),
}
ALL = METHODS | WHOLE | {"svd": SVD()}
ADAPTERS = {"lora": LoRA(), "scaled": ScaledLoRA(), "adalora": AdaLoRA(budget=2, steps=5), "stella": StelLA(), "condlr": CondLR()}
CLASSES = 6


class Linear(nn.Sequential):
    """A layer, named `mid`, of 8 features."""

    shape = (8,)

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.mid = nn.Linear(8, CLASSES, dtype=dtype)


class Conv(nn.Sequential):
    """A convolution, named `mid`, of images of 3 x 3."""

    shape = (4, 3, 3)

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.mid = nn.Conv2d(4, CLASSES, 3, dtype=dtype)
        self.flat = nn.Flatten()


class Recurrent(nn.Module):
    """A recurrent layer, named `mid`, whose weights are merged."""

    shape = (5, 4)

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.mid = nn.RNN(4, CLASSES, batch_first=True, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.mid(x)[0][:, -1]


STARTS = ["1e-30", "1e30", "0", "equal", "rank 1", "no gradient", "one example"]
KINDS: dict[str, type[nn.Module]] = {"linear": Linear, "conv": Conv, "merged": Recurrent}


def started(kind: str, start: str, dtype: torch.dtype) -> nn.Module:
    """Return a network whose weights begin in an unusual way."""
    torch.manual_seed(0)
    net = KINDS[kind](dtype)
    for parameter in (each for each in net.parameters() if each.ndim > 1):
        w = torch.randn(parameter.shape, dtype=torch.float64).flatten(1)
        if start == "equal":
            u, _, vh = torch.linalg.svd(w, full_matrices=False)
            w = u @ vh
        elif start == "rank 1":
            w = w[:, :1] @ w[:1]
        elif start in ("1e-30", "1e30", "0"):
            w = w * float(start)
        parameter.data = w.reshape(parameter.shape).to(dtype)
    return net


def closure_of(net: nn.Module, opt: LowRankOptimizer, x: Tensor, *, factor: float = 1.0):
    labels = torch.arange(len(x)) % CLASSES

    def closure() -> Tensor:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), labels) * factor
        loss.backward()
        return loss

    return closure


def batch(net: nn.Module, examples: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(examples, *net.shape, generator=generator).to(next(net.parameters()).dtype)


def weights_are_finite(net: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in net.parameters())


def factor(net: nn.Module, method: Method) -> None:
    compress(net, method=method, init="weights", **({"rank": 3} if method.ranked else {}))


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("kind", "dtype", "start"),
    [
        (kind, dtype, start)
        for kind, dtype, starts in (
            ("linear", torch.float32, STARTS),
            ("conv", torch.float32, STARTS),
            ("merged", torch.float32, STARTS[:3]),
            ("conv", torch.float64, STARTS[:3]),
        )
        for start in starts
    ],
)
@with_each(ALL)
def test_every_method_trains_from_unusual_starts_or_refuses_them(method: Method, kind: str, start: str, dtype: torch.dtype) -> None:
    net = started(kind, start, dtype)
    x = batch(net, 1 if start == "one example" else 5)
    try:
        factor(net, method)
    except UserError as error:
        refused = start in ("1e-30", "0") and "init='kaiming'" in str(error)
        assert refused or "no convolution" in str(error) or (kind == "merged" and start == "1e30")
        return
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.05, momentum=0.9)
    closure = closure_of(net, opt, x, factor=0.0 if start == "no gradient" else 1.0)
    try:
        for _ in range(4):
            opt.step(closure)
        opt.finish()
    except TrainingError as error:  # of free factors a gradient is as large as the weight
        assert start == "1e30" and method.name in ("usv", "vanilla", "robust-dlrt")
        assert "mid" in str(error) and "smaller learning rate" in str(error)
        assert weights_are_finite(net)
    else:
        assert weights_are_finite(net) and bool(closure().isfinite())


@pytest.mark.parametrize("start", ["1e-30", "1e30", "0", "equal", "rank 1"])
@with_each(ADAPTERS)
def test_adapters_train_beside_unusual_weights_or_refuse_them(method: Method, start: str) -> None:
    net = started("linear", start, torch.float32)
    try:
        adapt(net, method=method, rank=2)
    except UserError as error:
        assert start in ("1e-30", "0") and "mid" in str(error)
        return
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.05)
    for _ in range(4):
        opt.step(closure_of(net, opt, batch(net)))
    opt.finish()
    assert weights_are_finite(net)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("moments", ["tangent", "elementwise"])
@pytest.mark.parametrize("step", ["exact", "amortised"])
@with_each({name: METHODS[name] for name in ("condlr", "dlrt", "geolora cond", "robust dlrt", "vanilla")} | {"cayley": CayleySGD()})
def test_a_batch_with_NaN_moves_nothing_and_is_named(method: Method, step, moments, optimizer: type[torch.optim.Optimizer]) -> None:
    """A loop that catches the error goes on as if the batch had never come."""
    net = started("linear", "", torch.float64)
    factor(net, method)
    opt = LowRankOptimizer(net, optimizer, lr=0.01, step=step, moments=moments)
    x = batch(net)
    for _ in range(3):
        opt.step(closure_of(net, opt, x))
    other = copy.deepcopy((net, opt))
    broken = x.clone()
    broken[0, 0] = math.nan
    with pytest.raises(TrainingError, match=r"step 4: the gradient of \w+ of layer 'mid' is not finite; try a smaller"):
        opt.step(closure_of(net, opt, broken))
    for one, two in ((net, opt), other):
        for _ in range(3):
            two.step(closure_of(one, two, x))
    for a, b in zip(net.parameters(), other[0].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_step_that_fails_later_puts_the_factors_back(evaluation: int) -> None:
    net = started("conv", "", torch.float32)
    factor(net, METHODS["tdlrt"])
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, momentum=0.9)
    x, calls = batch(net), []
    opt.step(closure_of(net, opt, x))
    before = [parameter.clone() for parameter in net.parameters()]

    def closure() -> Tensor:
        calls.append(None)
        loss = closure_of(net, opt, x * (math.inf if len(calls) == evaluation else 1.0))()
        net.mid.core.grad *= 0.5  # as clipping does, so that nothing is recalled
        return loss

    with pytest.raises(TrainingError, match="layer 'mid'"):
        opt.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_an_increment_that_overflows_puts_the_factors_back() -> None:
    net = started("linear", "", torch.float32)
    factor(net, GeoLoRA())
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=math.inf)
    before = [parameter.clone() for parameter in net.mid.all_factors()]
    with pytest.raises(FactorisationError, match="step 1: layer 'mid'"):
        opt.step(closure_of(net, opt, batch(net)))
    assert all(torch.equal(a, b) for a, b in zip(before, net.mid.all_factors(), strict=True))


def test_the_first_weight_of_a_dense_network_that_is_not_finite_is_named() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=1e38)
    closure = closure_of(net, opt, torch.randn(5, 4) * 1e3)
    with pytest.raises(TrainingError, match=r"step \d: \w+ of layer '\d' is not finite|the gradient of weight of layer '0'"):
        for _ in range(4):
            opt.step(closure)
    nn.init.constant_(net[1].bias, math.nan)
    with pytest.raises(TrainingError, match="bias of layer '1' is not finite"):
        opt.finish()


def test_a_loss_that_is_not_finite_is_named() -> None:
    net = nn.Linear(2, 1)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = net(torch.ones(1, 2)).sum() + math.inf
        loss.backward()
        return loss

    with pytest.raises(TrainingError, match="step 1: the loss is inf"):
        opt.step(closure)


def test_large_gradients_whose_sum_overflows_are_finite() -> None:
    net = nn.Linear(4, 4, bias=False)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=1e-38)
    net.weight.grad = torch.full((4, 4), 1e38)
    opt.step()
    assert weights_are_finite(net)


def test_devices_are_not_waited_for_but_take_no_gradient_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nonfinite, "AT_ONCE", ())
    net = started("linear", "", torch.float32)
    factor(net, METHODS["vanilla"])
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    x = batch(net)
    for factor_of_step in (1.0, math.nan, 1.0, math.inf):
        before = [parameter.clone() for parameter in net.parameters()]
        opt.step(closure_of(net, opt, x * factor_of_step))
        same = all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        assert same == (not math.isfinite(factor_of_step))
    with pytest.raises(TrainingError, match="step 2: the gradient of A of layer 'mid'"):
        opt.truncate()
    opt.truncate()


@pytest.mark.parametrize("method", [None, METHODS["condlr"], METHODS["dlrt"]], ids=["dense", "condlr", "dlrt"])
def test_a_step_that_a_gradient_scaler_skips_stays_skipped(method: Method | None) -> None:
    net = started("linear", "", torch.float32)
    if method is not None:
        factor(net, method)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, step="amortised")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    x, labels = batch(net) * 1e3, torch.arange(5)
    skipped = 0
    for _ in range(30):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(net(x), labels)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        clip_grad_norm_(net, 1.0)
        steps = opt.steps
        scaler.step(opt)
        scaler.update()
        skipped += opt.steps == steps
    assert 0 < skipped < 30 and weights_are_finite(net)
