"""ScaledLoRA: preconditioned gradients in closed form, and steps that do not depend on how A and B share the update."""

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import LoRA, LowRankOptimizer, ScaledLoRA, UserError, adapt
from robust_lowrank.layers import Adapter

F64 = torch.float64
LR = 0.05


def adapter(method: LoRA, n: int = 9, m: int = 7, r: int = 3) -> Adapter:
    """Return a linear layer with an update that is not zero."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(m, n, bias=False), nn.Linear(n, 2)).double()
    adapt(net, method=method, rank=r, alpha=6.0, exclude=["1"])
    found = net[0]
    assert isinstance(found, Adapter)
    found.update.A.data, found.update.B.data = torch.randn(n, r, dtype=F64), torch.randn(m, r, dtype=F64)
    return found


def product(layer: Adapter) -> Tensor:
    return (layer.update.A @ layer.update.B.T).detach()


def descend(layer: Adapter, target: Tensor, steps: int, optimizer: type = torch.optim.SGD, **options: float) -> list[Tensor]:
    """Return A B^T after each step on 1/2 ||W - target||^2 of the merged weight."""
    opt = LowRankOptimizer(layer, optimizer, **options)
    probe, found = torch.eye(target.shape[1], dtype=F64), []
    for _ in range(steps):
        opt.zero_grad()
        (0.5 * (layer(probe).T - target).square().sum()).backward()
        opt.step()
        found.append(product(layer))
    return found


def test_gradients_are_preconditioned_by_the_gram_matrix_of_the_other_factor() -> None:
    a, b, g = torch.randn(9, 3, dtype=F64), torch.randn(7, 3, dtype=F64), torch.randn(9, 7, dtype=F64)
    da, db = ScaledLoRA(delta=0.3).precondition((a, b), (g @ b, g.T @ a))
    ridge = 0.3 * torch.eye(3, dtype=F64)
    assert torch.dist(da @ (b.T @ b + ridge), g @ b) < 1e-10
    assert torch.dist(db @ (a.T @ a + ridge), g.T @ a) < 1e-10


def test_a_step_is_the_closed_form() -> None:
    """A moves by G B (B^T B)^{-1} and B by G^T A (A^T A)^{-1}, both at the old factors; G is the gradient of A B^T."""
    layer, target = adapter(ScaledLoRA(delta=1e-12)), torch.randn(9, 7, dtype=F64)
    a, b = layer.update.A.detach().clone(), layer.update.B.detach().clone()
    scale = layer.update.alpha
    assert scale == 6.0 / 3
    g = scale * (layer.base.weight.detach() + scale * a @ b.T - target)
    descend(layer, target, 1, lr=LR)
    assert torch.dist(layer.update.A, a - LR * g @ torch.linalg.pinv(b.T)) < 1e-9
    assert torch.dist(layer.update.B, b - LR * g.T @ torch.linalg.pinv(a.T)) < 1e-9


def test_the_product_moves_along_the_projections_on_both_spans() -> None:
    """To first order W moves along G V V^T + U U^T G; what is left is the product of both increments."""
    layer, target = adapter(ScaledLoRA(delta=1e-12)), torch.randn(9, 7, dtype=F64)
    a, b, before = layer.update.A.detach().clone(), layer.update.B.detach().clone(), product(layer)
    g = layer.update.alpha * (layer.base.weight.detach() + layer.update.alpha * before - target)
    (after,) = descend(layer, target, 1, lr=LR)
    on_a, on_b = a @ torch.linalg.pinv(a), b @ torch.linalg.pinv(b)
    second = g @ torch.linalg.pinv(b.T) @ (g.T @ torch.linalg.pinv(a.T)).T
    assert torch.dist(after, before - LR * (g @ on_b + on_a @ g) + LR**2 * second) < 1e-9


@pytest.mark.parametrize(("method", "invariant"), [(ScaledLoRA(delta=1e-13), True), (LoRA(), False)], ids=["scaled", "plain"])
def test_T9_the_product_does_not_depend_on_how_the_factors_share_it(method: LoRA, invariant: bool) -> None:
    target = torch.randn(9, 7, dtype=F64)
    turn = torch.randn(3, 3, dtype=F64) + 2 * torch.eye(3, dtype=F64)
    layer, other = adapter(method), adapter(method)
    other.update.A.data = layer.update.A.detach() @ turn
    other.update.B.data = layer.update.B.detach() @ torch.linalg.inv(turn).T
    assert torch.dist(product(layer), product(other)) < 1e-10
    steps = 10 if invariant else 1  # plain descent may leave for infinity
    pairs = zip(descend(layer, target, steps, lr=0.01), descend(other, target, steps, lr=0.01), strict=True)
    gaps = [float(torch.dist(*pair)) for pair in pairs]
    assert max(gaps) < 1e-8 if invariant else gaps[0] > 1e-2


@pytest.mark.parametrize(("optimizer", "lr"), [(torch.optim.SGD, 0.5), (torch.optim.AdamW, 0.02)])
@pytest.mark.parametrize("step", ["exact", "amortised"])
def test_a_network_learns_from_the_start_at_zero(optimizer: type[torch.optim.Optimizer], lr: float, step, precision) -> None:
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).to(precision.dtype)
    x, y = torch.randn(16, 2, 4, 4, dtype=precision.dtype), torch.randint(0, 4, (16,))
    before = net(x)
    adapt(net, method="scaled-lora", rank=4)
    assert torch.allclose(net(x), before)
    opt = LowRankOptimizer(net, optimizer, lr=lr, step=step)
    losses = []
    for _ in range(40):
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("delta", [0.0, -1.0, float("inf"), float("nan")])
def test_a_delta_that_inverts_nothing_is_refused(delta: float) -> None:
    with pytest.raises(UserError, match="delta"):
        ScaledLoRA(delta=delta)
