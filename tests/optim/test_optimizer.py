"""The optimizer around networks: what moves, what does not, and what survives a change of bases."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import (
    DLRT,
    RGD,
    TDLRT,
    USV,
    CondLR,
    GeoLoRA,
    LowRankOptimizer,
    Penalty,
    ProjectedSGD,
    RobustDLRT,
    SpectralClamp,
    UserError,
    Vanilla,
    compress,
    linalg,
    load,
    save,
)
from robust_lowrank.layers import LowRankLinear, named_factored_layers
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import Method
from robust_lowrank.optim import transport
from robust_lowrank.optim.loss_terms import add_penalty
from tests.methods.catalogue import taken, with_each

OWN = {
    "geolora budget": GeoLoRA(tol=0.0, budget=18),
    "robust dlrt": RobustDLRT(core_steps=2),
    "polar": ProjectedSGD(retraction="polar"),
    "clamp": SpectralClamp(cond=1.5),
}
ADAPTIVE = ("dlrt", "tdlrt", "tdlrt all", "geolora", "dlrt cond", "geolora cond")
METHODS = taken("vanilla", "condlr", "dlrt fixed", *ADAPTIVE, "rgd", "usv") | OWN
each_method = with_each(METHODS)


class Residual(nn.Module):
    """A small network with a skip connection, batch normalisation, dropout and biases."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.skip = nn.Conv2d(8, 8, 1)
        self.drop = nn.Dropout(0.5)
        self.hidden = nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.block(x) + self.skip(x))
        x = nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return self.head(self.drop(torch.relu(self.hidden(x))))


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 2, 6, 6, dtype=torch.float64), torch.randint(0, 3, (n,))


def network(method: Method, rank: float = 0.5) -> nn.Module:
    net = Residual().double()
    compress(net, method=method, rank=rank if method.ranked else None, exclude=["head"], init="kaiming")
    return net


def closure_of(net: nn.Module, opt: torch.optim.Optimizer, data: tuple[Tensor, Tensor], calls: list[float] | None = None):
    def closure() -> Tensor:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(data[0]), data[1])
        loss.backward()
        if calls is not None:
            calls.append(float(loss.detach()))
        return loss

    return closure


@each_method
def test_T24_everything_that_should_train_does(method: Method) -> None:
    net = network(method)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, momentum=0.5)
    for _ in range(3):
        opt.step(closure_of(net, opt, batch()))
    for name, parameter in net.named_parameters():
        if name == "stem.bias":
            continue  # the normalisation behind it takes it away, so that its gradient is but rounding
        same = parameter.shape == before[name].shape and torch.equal(parameter, before[name])
        complete = name.split(".")[-1] in {"U", "V", "U1", "U2", "U3", "U4"} and parameter.shape[0] == parameter.shape[1]
        assert not same or complete, f"{name} did not move"
    assert net.norm.running_mean.abs().max() > 0


@each_method
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_T24_weight_decay_never_touches_the_bases(method: Method, optimizer: type[torch.optim.Optimizer]) -> None:
    """With gradients of zero only the decay acts: on cores and dense weights, not on what must stay orthonormal."""
    if isinstance(method, RobustDLRT):
        method = replace(method, beta=0.0, core_steps=1)  # R is homogeneous and shrinks the core, too
    net = network(method)
    before = {name: Factors(layer.core.detach().clone(), layer.bases()) for name, layer in named_factored_layers(net)}
    opt = LowRankOptimizer(net, optimizer, lr=0.1, weight_decay=0.5)
    assert all(group["weight_decay"] == (0.0 if group["name"] == "bases" else 0.5) for group in opt.param_groups)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = 0.0 * net(batch()[0]).sum()
        loss.backward()
        return loss

    opt.step(closure)
    for name, layer in named_factored_layers(net):
        for basis in layer.bases():
            assert torch.dist(basis.T @ basis, torch.eye(basis.shape[1], dtype=basis.dtype)) < 1e-12
        if layer.bases():
            shrunk = before[name]._replace(core=(1 - 0.1 * 0.5) * before[name].core)
            expected = torch.linalg.svdvals(linalg.unfold(method.project(shrunk).core, 0))[: layer.rank]
            assert torch.dist(layer.singular_values(), expected) < 1e-10


@pytest.mark.parametrize("method", [DLRT(tol=0.1), TDLRT(tol=0.1)], ids=["dlrt", "tdlrt"])
def test_both_evaluations_of_a_step_see_the_same_network(method: Method) -> None:
    """Dropout repeats, and batch statistics move once: the loss after a lossless augmentation is the loss before it (T11).

    Gradients that are changed after the pass have the closure run again.
    """
    net, data, calls = network(method), batch(), []
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    assert opt.evaluations_per_step == 2

    def closure() -> Tensor:
        loss = closure_of(net, opt, data, calls)()
        net.block.core.grad *= 0.5
        return loss

    loss = opt.step(closure)
    assert len(calls) == 2
    assert calls[0] == pytest.approx(calls[1], abs=1e-10)
    assert float(loss.detach()) == calls[0]
    assert int(net.norm.num_batches_tracked) == 1
    twin = Residual().double()
    twin.load_state_dict(net.state_dict(), strict=False)
    assert torch.equal(twin.norm.running_mean, net.norm.running_mean)


@each_method
def test_T26_checkpoint_reproduces_logits_and_the_next_step(method: Method, tmp_path) -> None:
    net, data = network(method), batch()
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(3):
        opt.step(closure_of(net, opt, data))
    save(net, tmp_path / "net.safetensors")
    other = load(Residual().double(), tmp_path / "net.safetensors")
    resumed = LowRankOptimizer(other, torch.optim.SGD, lr=0.1, momentum=0.9)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    for each, optimizer in ((net, opt), (other, resumed)):
        torch.manual_seed(1)
        optimizer.step(closure_of(each, optimizer, data))
    for name, value in net.state_dict().items():
        assert torch.allclose(value, other.state_dict()[name], atol=1e-12), name
    net.eval(), other.eval()
    assert torch.allclose(net(data[0]), other(data[0]), atol=1e-12)


@pytest.mark.parametrize("key", ["momentum_buffer", "exp_avg"])
def test_T21_first_moments_turn_with_the_core(key: str) -> None:
    a, b = (linalg.orth(torch.randn(4, 4, dtype=torch.float64)) for _ in range(2))
    m = torch.randn(4, 4, dtype=torch.float64)
    moved = transport({key: m, "step": torch.tensor(3.0)}, m.shape, [a.T, b.T])
    assert torch.dist(a @ moved[key] @ b.T, m) < 1e-12
    assert moved["step"] == 3


def test_T30_second_moments_stay_positive_and_fresh_rows_start_at_the_mean() -> None:
    v = torch.rand(3, 3, dtype=torch.float64)
    old = linalg.orth(torch.randn(8, 3, dtype=torch.float64))
    new = linalg.orth(torch.cat([old, torch.randn(8, 3, dtype=torch.float64)], 1))
    moved = transport({"exp_avg_sq": v}, v.shape, [new.T @ old, new.T @ old])["exp_avg_sq"]
    assert moved.shape == (6, 6)
    assert (moved > 0).all()
    assert (moved[3:] - v.mean()).abs().max() < 1e-12
    assert torch.allclose(moved[:3, :3], v)


def test_a_state_that_cannot_be_moved_is_dropped() -> None:
    shape = torch.Size([2, 2])
    assert transport({"prev": torch.zeros(2, 2), "momentum_buffer": torch.zeros(2, 2)}, shape, [torch.eye(2)] * 2) == {}


def test_a_dense_network_trains_as_by_the_torch_optimizer() -> None:
    net, data = Residual().double().eval(), batch()
    twin = copy.deepcopy(net)
    ours = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    theirs = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        ours.step(closure_of(net, ours, data))
        theirs.step(closure_of(twin, theirs, data))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_schedulers_change_the_rate_of_every_group() -> None:
    net = network(CondLR())
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    opt.step(closure_of(net, opt, batch()))
    schedule.step()
    assert {group["lr"] for group in opt.param_groups} == {0.05}
    assert {group["name"] for group in opt.param_groups} == {"dense", "cores", "bases"}


def test_single_evaluation_methods_step_without_a_closure() -> None:
    for method in (CondLR(), GeoLoRA(), Vanilla()):
        net, (x, y) = network(method), batch()
        opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
        for _ in range(3):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            assert opt.step() is None


def test_two_evaluations_need_a_closure() -> None:
    opt = LowRankOptimizer(network(DLRT()), torch.optim.SGD, lr=0.1)
    with pytest.raises(UserError, match="closure"):
        opt.step()


def test_amortised_steps_turn_once_a_window_and_truncates_at_its_end() -> None:
    net, data = network(DLRT(tol=0.0, max_rank=4), rank=4), batch()
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, step="amortised", window=2)
    assert opt.evaluations_per_step == 1
    ranks = []
    for _ in range(6):
        opt.step(closure_of(net, opt, data))
        ranks.append(net.hidden.U.shape[1])
    assert ranks == [8, 8, 4, 8, 8, 4]


def test_a_penalty_on_a_core_is_a_term_of_the_weight() -> None:
    """SO of W = U S V^T is that of S up to a constant, so its gradient is known and so are its projections."""
    bases = tuple(linalg.orth(torch.randn(n, 3, dtype=torch.float64)) for n in (6, 5))
    layer, penalty = LowRankLinear(Factors(torch.randn(3, 3, dtype=torch.float64), bases)), Penalty(form="SO")
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    add_penalty(layer, penalty, 0.3)
    g, (u, v) = 0.3 * penalty.gradient(layer.dense_weight().detach()), bases
    for parameter, expected in ((layer.S, u.T @ g @ v), (layer.U, g @ v), (layer.V, g.T @ u)):
        assert torch.dist(parameter.grad, expected) < 1e-10


def test_lbfgs_and_empty_networks_are_refused() -> None:
    with pytest.raises(UserError, match="LBFGS"):
        LowRankOptimizer(network(CondLR()), torch.optim.LBFGS)
    with pytest.raises(UserError, match="no parameters"):
        LowRankOptimizer(nn.ReLU(), torch.optim.SGD, lr=0.1)


def test_a_failing_factorisation_names_the_layer() -> None:
    net = network(GeoLoRA())
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=float("nan"))
    with pytest.raises(linalg.FactorisationError, match="layer 'stem'"):
        for _ in range(2):
            opt.step(closure_of(net, opt, batch()))


@each_method
def test_training_survives_an_svd_that_fails_at_random(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    real, chance = torch.linalg.svd, random.Random(0)

    def flaky(a: Tensor, full_matrices: bool = True) -> object:
        if a.dtype == torch.float32 and chance.random() < 0.3:
            raise torch.linalg.LinAlgError("the algorithm failed to converge")
        return real(a, full_matrices=full_matrices)

    losses = []
    for svd in (real, flaky):
        torch.manual_seed(0)
        net = network(method).float().eval()
        x, y = batch()
        opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
        monkeypatch.setattr(torch.linalg, "svd", svd)
        for _ in range(10):
            loss = opt.step(closure_of(net, opt, (x.float(), y)))
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_T22_a_penalty_of_the_cores_is_one_of_the_weights() -> None:
    """At full rank the factored methods descend the loss + beta R(W) as SGD does on dense weights."""
    for method in (GeoLoRA(tol=0.0), DLRT(tol=0.0), CondLR(tau=float("inf"))):
        torch.manual_seed(0)
        dense = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        factored = copy.deepcopy(dense)
        compress(factored, method=method, rank=1.0, exclude=["2"])
        x, y = torch.rand(16, 6, dtype=torch.float64), torch.randint(0, 3, (16,))
        opt = LowRankOptimizer(factored, torch.optim.SGD, lr=0.1, momentum=0.5, penalties=[Penalty(form="R", weight=0.3)])
        twin = LowRankOptimizer(
            dense,
            torch.optim.SGD,
            lr=0.1,
            momentum=0.5,
            penalties=[Penalty(form="R", weight=0.3, on="weights", milestones=(99,), decay=(0.0,))],
        )
        twin.penalties = [(penalty, [dense[0].weight]) for penalty, _ in twin.penalties]
        for _ in range(8):
            opt.step(closure_of(factored, opt, (x, y)))
            twin.step(closure_of(dense, twin, (x, y)))
        assert torch.dist(factored[0].dense_weight(), dense[0].weight) < 1e-9


@pytest.mark.parametrize("form", ["R", "COND", "SO", "DSO", "MC", "SRIP"])
@pytest.mark.parametrize("place", ["cores", "weights", "factors"])
def test_penalties_fall_where_they_act_and_stop_at_their_milestone(form: str, place: str) -> None:
    net = network(USV() if place == "factors" else RGD())
    penalty = Penalty(form=form, weight=0.1, on=place, milestones=(30,), decay=(0.0,))  # pyright: ignore[reportArgumentType]
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.02, penalties=[penalty])

    def total() -> float:
        if place == "cores":
            acted = [layer.core for _, layer in named_factored_layers(net)]
        elif place == "factors":
            acted = [factor for _, layer in named_factored_layers(net) for factor in layer.free_factors()]
        else:
            acted = [net.head.weight]
        return sum(float(penalty.value(a.detach())) for a in acted)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = 0.0 * net(batch()[0]).sum()
        loss.backward()
        return loss

    if place == "factors":
        for _, layer in named_factored_layers(net):
            for factor in layer.free_factors():
                factor.data *= torch.linspace(1.1, 1.5, factor.shape[1])
    start = total()
    for _ in range(30):
        opt.step(closure)
    middle = total()
    assert middle < start
    opt.step(closure)
    assert total() == pytest.approx(middle, abs=1e-9)


def test_a_penalty_without_a_place_is_refused() -> None:
    with pytest.raises(UserError, match="finds none"):
        LowRankOptimizer(network(CondLR()), torch.optim.SGD, lr=0.1, penalties=[Penalty(on="factors")])


def test_the_schedules_are_not_mixed_up() -> None:
    with pytest.raises(UserError, match="amortised"):
        LowRankOptimizer(network(DLRT()), torch.optim.SGD, lr=0.1).step()
    with pytest.raises(UserError, match="belongs to step"):
        LowRankOptimizer(network(DLRT()), torch.optim.SGD, lr=0.1, window=3)
    for method in (DLRT(), TDLRT(), RobustDLRT()):
        with pytest.raises(UserError, match="at least 1"):
            LowRankOptimizer(network(method), torch.optim.SGD, lr=0.1, step="amortised", window=0)
    with pytest.raises(UserError, match="did you mean 'amortised'"):
        LowRankOptimizer(network(DLRT()), torch.optim.SGD, lr=0.1, step="amortized")  # pyright: ignore[reportArgumentType]
