"""Steps that are interrupted, bases that rest, and copies and states of optimizers."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, RGD, CondLR, GeoLoRA, LowRankOptimizer, RobustDLRT, UserError, clip_grad_norm_, compress
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import Method


def factored(method: Method, *, layers: int = 1, size: int = 12, rank: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(size, size, dtype=torch.float64) for _ in range(layers)))
    compress(net, method=method, rank=rank, init="kaiming")
    return net


def closure_of(net: nn.Module, opt: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        opt.zero_grad()
        loss = (net(x) - y).square().sum(1).mean()
        loss.backward()
        return loss

    return closure


def batch(size: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(64, size, generator=generator, dtype=torch.float64) for _ in range(2))  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("method", [GeoLoRA(tol=0.1), GeoLoRA(tol=0.1, cond=2.0), DLRT(tol=0.1)], ids=["plain", "cond", "dlrt"])
def test_finishing_changes_nothing_after_a_core_has_moved_in_resting_bases(method: Method) -> None:
    net = factored(method)
    x, _ = batch()
    y = x @ torch.randn(12, 2, dtype=torch.float64) @ torch.randn(2, 12, dtype=torch.float64)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.02)
    for _ in range(200):
        opt.step(closure_of(net, opt, x, y))
    assert any(net[0].idle), "without an idle direction nothing is shown"
    for basis in net[0].bases():
        basis.requires_grad_(False)
    before, bases = net[0].rank, [basis.clone() for basis in net[0].bases()]
    for _ in range(20):
        opt.step(closure_of(net, opt, *batch()))
    assert net[0].rank == before
    assert all(torch.equal(a, b) for a, b in zip(bases, net[0].bases(), strict=True))
    sigma = net[0].singular_values()
    assert sigma[0] <= method.cond_bound * sigma[-1] * (1 + 1e-9)
    outputs = net(x).detach()
    opt.finish()
    assert torch.dist(net(x), outputs) < 1e-10


@pytest.mark.parametrize("method", [RobustDLRT(core_steps=3, tol=0.2), DLRT(), DLRT(tol=0.1)], ids=["robust", "fixed", "adaptive"])
@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_step_that_is_interrupted_leaves_a_state_to_go_on_from(method: Method, evaluation: int) -> None:
    net = factored(method)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01, momentum=0.9)
    closure = closure_of(net, opt, *batch())
    for _ in range(3):
        opt.step(closure)
    calls = []

    def interrupted() -> Tensor:
        calls.append(None)
        if len(calls) == evaluation:
            raise KeyboardInterrupt
        loss = closure()
        net[0].core.grad *= 0.5  # as clipping does, so that nothing is recalled
        return loss

    with pytest.raises(KeyboardInterrupt):
        opt.step(interrupted)
    other = copy.deepcopy(net)
    others = LowRankOptimizer(other, torch.optim.SGD, lr=0.01, momentum=0.9)
    others.load_state_dict(copy.deepcopy(opt.state_dict()))
    opt.step(closure)
    others.step(closure_of(other, others, *batch()))
    assert torch.dist(net[0].dense_weight(), other[0].dense_weight()) < 1e-12


def test_a_layer_that_fails_leaves_no_other_between_turning_and_truncation() -> None:
    net = factored(RGD(), layers=2)
    groups = [{"params": net[1].all_factors(), "lr": float("inf")}]
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01, groups=groups)
    before = [factor.clone() for layer in net for factor in layer.all_factors()]
    with pytest.raises(FactorisationError, match="layer '1'"):
        opt.step(closure_of(net, opt, *batch()))
    assert opt.settled
    assert all(torch.equal(a, b) for a, b in zip(before, (factor for layer in net for factor in layer.all_factors()), strict=True))


@pytest.mark.parametrize("moments", ["tangent", "elementwise"])
@pytest.mark.parametrize("inner", [torch.optim.AdamW, torch.optim.RMSprop])
def test_frozen_bases_of_condlr_rest(inner: type[torch.optim.Optimizer], moments: str) -> None:
    net = factored(CondLR(tau=0.5))
    before = [basis.requires_grad_(False).clone() for basis in net[0].bases()]
    core = net[0].core.clone()
    opt = LowRankOptimizer(net, inner, lr=0.01, moments=moments)
    for _ in range(3):
        opt.step(closure_of(net, opt, *batch()))
    assert all(torch.equal(a, b) for a, b in zip(before, net[0].bases(), strict=True))
    assert torch.dist(core, net[0].core) > 1e-3


def test_the_rate_of_the_bases_is_their_own() -> None:
    net = factored(CondLR(tau=0.5))
    before = [basis.clone() for basis in net[0].bases()]
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.01)
    next(group for group in opt.param_groups if group["name"] == "bases")["lr"] = 0.0
    opt.step(closure_of(net, opt, *batch()))
    assert all(torch.dist(a, b) < 1e-12 for a, b in zip(before, net[0].bases(), strict=True))


def test_a_copy_made_under_a_scheduler_steps_itself() -> None:
    net = factored(GeoLoRA())
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01)
    torch.optim.lr_scheduler.StepLR(opt, 3)
    other, others = copy.deepcopy((net, opt))
    assert pickle.dumps(opt)
    before, start = net[0].dense_weight().detach(), other[0].dense_weight().detach()
    others.step(closure_of(other, others, *batch()))
    assert torch.equal(net[0].dense_weight(), before)
    assert torch.dist(other[0].dense_weight(), start) > 1e-3


@pytest.mark.parametrize("kinds", [("tangent", "elementwise"), ("elementwise", "tangent")])
def test_moments_of_the_other_kind_are_refused(kinds: tuple[str, str]) -> None:
    net = factored(GeoLoRA())
    first, second = (LowRankOptimizer(net, torch.optim.Adam, lr=0.01, moments=kind) for kind in kinds)
    with pytest.raises(UserError, match="moments of another kind"):
        second.load_state_dict(first.state_dict())


def test_clipping_sums_short_gradients_in_float32() -> None:
    layer = nn.Linear(8, 8).half()
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, 400.0)
    assert float(clip_grad_norm_(layer, 1.0)) == pytest.approx(400.0 * 72**0.5, rel=1e-3)
    assert float(layer.weight.grad.abs().max()) == pytest.approx(72**-0.5, rel=1e-2)


def test_muon_stands_a_gradient_of_zero() -> None:
    net = factored(GeoLoRA())
    opt = LowRankOptimizer(net, torch.optim.Muon, lr=0.01, adjust_lr_fn="match_rms_adamw", weight_decay=0.0)
    x, _ = batch()
    before = net[0].dense_weight().detach()
    opt.step(closure_of(net, opt, x, net(x).detach()))
    assert torch.dist(net[0].dense_weight(), before) < 1e-6
