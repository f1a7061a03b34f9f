"""A second evaluation at the same weight is recalled from the first, and run where that has not shown enough."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robust_lowrank import DLRT, TDLRT, LowRankOptimizer, Penalty, RobustDLRT, adapt, clip_grad_norm_, compress
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.methods import Method
from robust_lowrank.optim.recall import Recall
from tests.methods.catalogue import with_each
from tests.optim.test_optimizer import batch, network

METHODS: dict[str, Method] = {
    "dlrt": DLRT(tol=0.1),
    "dlrt cond": DLRT(tol=0.1, cond=1.5),
    "tdlrt": TDLRT(tol=0.1),
    "tdlrt all": TDLRT(tol=0.1, modes="all"),
    "robust dlrt": RobustDLRT(tol=0.1, core_steps=2),
}
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda net: LowRankOptimizer(net, torch.optim.SGD, lr=0.1),
    "momentum": lambda net: LowRankOptimizer(net, torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda net: LowRankOptimizer(net, torch.optim.AdamW, lr=0.01),
    "elementwise": lambda net: LowRankOptimizer(net, torch.optim.Adam, lr=0.01, moments="elementwise"),
    "penalty": lambda net: LowRankOptimizer(net, torch.optim.SGD, lr=0.1, penalties=[Penalty(form="R", weight=0.1)]),
}
each_method = with_each(METHODS)


def losses_and_weights(net: nn.Module, make: Callable[..., Any], closure: Callable[..., Any], steps: int = 4) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    opt = make(net)
    losses = [opt.step(lambda: closure(net, opt)).detach() for _ in range(steps)]
    weights = [layer.dense_weight().detach() for _, layer in named_factored_layers(net)]
    return (torch.stack(losses), *weights, *(buffer.double() for buffer in net.buffers()), torch.rand(1))


def passing(data: tuple[Tensor, Tensor], calls: list[int]) -> Callable[..., Tensor]:
    def closure(net: nn.Module, opt: torch.optim.Optimizer) -> Tensor:
        calls.append(1)
        opt.zero_grad()
        loss = cross_entropy(net(data[0]), data[1])
        loss.backward()
        return loss

    return closure


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Have every evaluation run, as it is written in the papers."""
    return lambda: monkeypatch.setattr(Recall, "watching", lambda self: nullcontext())


@pytest.mark.sampled(3)
@each_method
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_what_is_recalled_is_what_an_evaluation_finds(method: Method, make: Callable[..., Any], forgetful) -> None:
    """Factors, batch statistics, dropout and the random state are those of both evaluations."""
    net, data, calls = network(method), batch(), []
    other = copy.deepcopy(net)
    found = losses_and_weights(net, make, passing(data, calls))
    once, rounds = len(calls), method.core_steps
    forgetful()
    expected = losses_and_weights(other, make, passing(data, calls))
    assert (once, len(calls) - once) == (4 * rounds, 4 * (1 + rounds))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def of_two_batches(net: nn.Module, opt: torch.optim.Optimizer, data: tuple[Tensor, Tensor]) -> Tensor:
    opt.zero_grad()
    losses = [cross_entropy(net(x), y) / 2 for x, y in zip(data[0].split(8), data[1].split(8), strict=True)]
    for loss in losses:
        loss.backward()
    return torch.stack(losses).sum()


def attacked(net: nn.Module, opt: torch.optim.Optimizer, data: tuple[Tensor, Tensor]) -> Tensor:
    x = data[0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(cross_entropy(net(x), data[1]), x)
    opt.zero_grad()
    loss = cross_entropy(net((x + 0.01 * slope.sign()).detach()), data[1])
    loss.backward()
    return loss


def checkpointed(net: nn.Module, opt: torch.optim.Optimizer, data: tuple[Tensor, Tensor]) -> Tensor:
    opt.zero_grad()
    loss = cross_entropy(torch.utils.checkpoint.checkpoint(net, data[0], use_reentrant=False), data[1])
    loss.backward()
    return loss


def clipped(net: nn.Module, opt: torch.optim.Optimizer, data: tuple[Tensor, Tensor]) -> Tensor:
    loss = passing(data, [])(net, opt)
    clip_grad_norm_(net, 0.01)
    return loss


def sharpness_aware(net: nn.Module, opt: torch.optim.Optimizer, data: tuple[Tensor, Tensor]) -> Tensor:
    passing(data, [])(net, opt)
    return passing((data[0] + 0.1, data[1]), [])(net, opt)


@pytest.mark.parametrize(
    ("closure", "recalled"),
    [(of_two_batches, True), (attacked, True), (checkpointed, True), (clipped, False), (sharpness_aware, False)],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.sampled(2)
@with_each({name: METHODS[name] for name in ("dlrt", "tdlrt all")})
def test_closures_of_other_kinds(method: Method, closure: Callable[..., Tensor], recalled: bool, forgetful) -> None:
    """Where gradients are not those of the passes any more, the evaluation is run again."""
    net, data, calls = network(method), batch(), []
    net.norm.eval()  # two batches, and an attack's passes, have statistics of their own

    def counted(net: nn.Module, opt: torch.optim.Optimizer) -> Tensor:
        calls.append(1)
        return closure(net, opt, data)

    other = copy.deepcopy(net)
    found = losses_and_weights(net, OPTIMIZERS["momentum"], counted)
    assert len(calls) == (4 if recalled else 8)
    forgetful()
    expected = losses_and_weights(other, OPTIMIZERS["momentum"], counted)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_at_fixed_rank_nothing_is_recalled() -> None:
    net, calls = network(DLRT()), []
    losses_and_weights(net, OPTIMIZERS["sgd"], passing(batch(), calls), steps=1)
    assert len(calls) == 2


def test_a_layer_whose_core_is_frozen_has_nothing_to_recall() -> None:
    net, calls = network(METHODS["dlrt"]), []
    net.hidden.core.requires_grad_(False)
    losses_and_weights(net, OPTIMIZERS["sgd"], passing(batch(), calls), steps=1)
    assert len(calls) == 2


def test_a_network_with_merged_weights_runs_both() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 8, 1, groups=2), nn.Flatten())
    net.double()
    compress(net, method=DLRT(tol=0.1), rank=0.5, exclude=[], init="kaiming")
    calls: list[int] = []
    data = torch.rand(5, 6, dtype=torch.float64), torch.randint(0, 8, (5,))
    losses_and_weights(net, OPTIMIZERS["sgd"], passing(data, calls), steps=1)
    assert len(calls) == 2


def test_adapters_recall_what_their_frozen_layers_cost(forgetful) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    adapt(net, method=DLRT(tol=0.1), rank=2, alpha=3.0)
    data, calls = (torch.rand(7, 6, dtype=torch.float64), torch.randint(0, 4, (7,))), []
    other = copy.deepcopy(net)
    found = losses_and_weights(net, OPTIMIZERS["momentum"], passing(data, calls))
    assert len(calls) == 4
    forgetful()
    expected = losses_and_weights(other, OPTIMIZERS["momentum"], passing(data, calls))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_in_half_precision_the_recalled_gradient_is_as_near(device: torch.device, forgetful) -> None:
    net, (x, y) = network(METHODS["dlrt"]).float().to(device), batch()
    x, y = x.float().to(device), y.to(device)

    def closure(net: nn.Module, opt: torch.optim.Optimizer) -> Tensor:
        opt.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            loss = cross_entropy(net(x), y)
        loss.backward()
        return loss.float()

    other = copy.deepcopy(net)
    found = losses_and_weights(net, OPTIMIZERS["sgd"], closure)
    forgetful()
    for ours, theirs in zip(found, losses_and_weights(other, OPTIMIZERS["sgd"], closure), strict=True):
        assert torch.allclose(ours, theirs, rtol=0.03, atol=0.03)
