"""Directions from which ranks grow: what the weight shows, what the optimizer keeps, and what survives a pause or the end."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, RGD, TDLRT, GeoLoRA, LowRankOptimizer, RobustDLRT, compress, linalg, load, save
from robust_lowrank.layers import LowRankLinear, named_factored_layers
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import GalerkinMethod

F64 = torch.float64
METHODS: dict[str, GalerkinMethod] = {
    "geolora": GeoLoRA(tol=0.2),
    "geolora cond": GeoLoRA(tol=0.2, cond=1.5),
    "geolora budget": GeoLoRA(tol=0.05, budget=9),
    "geolora network": GeoLoRA(tol=0.2, threshold="network"),
    "dlrt": DLRT(tol=0.2),
    "dlrt cond": DLRT(tol=0.2, cond=1.3),
    "tdlrt": TDLRT(tol=0.2),
    "tdlrt all": TDLRT(tol=0.2, modes="all"),
    "robust dlrt": RobustDLRT(tol=0.2, core_steps=2),
}
BOUND = ("geolora cond", "geolora budget", "dlrt cond")  # their ranks are not cut by the tolerance
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
SPREADS: dict[str, dict[str, Any]] = {"exact": {}, "amortised": {"step": "amortised", "window": 3}}
each_spread = pytest.mark.parametrize("spread", SPREADS.values(), ids=SPREADS)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.hidden = nn.Linear(32, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(nn.functional.adaptive_avg_pool2d(torch.relu(self.stem(x)), 2).flatten(1))))


def network(method: GalerkinMethod, dtype: torch.dtype = F64) -> nn.Module:
    net = Small().to(dtype)
    compress(net, method=method, rank=0.5, exclude=["head"], init="kaiming")
    return net


def advance(net: nn.Module, opt: LowRankOptimizer, steps: int, first: int = 0) -> None:
    """Take steps on batches that depend on their number alone."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        x = torch.rand(8, 4, 5, 5, generator=generator).to(net.head.weight.dtype)
        y = torch.randint(0, 3, (8,), generator=generator)

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        opt.step(closure)


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: layer.dense_weight().detach() for name, layer in named_factored_layers(net)}


def stored_ranks(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(basis.shape[1] for basis in layer.bases()) for name, layer in named_factored_layers(net)}


def planted(method: GalerkinMethod, **options: Any) -> tuple[LowRankLinear, LowRankOptimizer, list[Tensor]]:
    """Return a layer under a constant gradient that builds a second direction up, its optimizer, and the trained weights."""
    u, v = linalg.orth(torch.randn(8, 8, dtype=F64)), linalg.orth(torch.randn(6, 6, dtype=F64))
    layer = LowRankLinear(Factors(torch.diag(torch.tensor([1.0, 0.0], dtype=F64)), (u[:, :2].clone(), v[:, :2].clone())))
    layer.method = method
    g = -u[:, :3] @ torch.diag(torch.tensor([0.0, 1.0, 0.2], dtype=F64)) @ v[:, :3].T + 0.05 * torch.randn(8, 6, dtype=F64)
    opt, probe, trained = LowRankOptimizer(layer, torch.optim.SGD, lr=1e-3, **options), torch.eye(6, dtype=F64), []
    for _ in range(30):
        opt.zero_grad()
        (g * layer(probe).T).sum().backward()
        opt.step()
        beside = opt.state_dict()["window"]["beside"].get("", torch.zeros(()))
        core, (left, right) = layer.factors()
        trained.append(left @ (core + beside) @ right.T)
    return layer, opt, trained


def test_what_an_idle_direction_gathers_waits_until_it_counts() -> None:
    """Weight and optimizer together follow descent at rank 2, though the weight has rank 1 until that is worth it."""
    torch.manual_seed(5)
    layer, _, trained = planted(GeoLoRA(tol=0.1))
    torch.manual_seed(5)
    _, _, expected = planted(RGD())
    for ours, theirs in zip(trained, expected, strict=True):
        assert torch.dist(ours, theirs) < 1e-10
    assert layer.rank == 2, "it has grown"
    torch.manual_seed(5)
    early, opt, _ = planted(GeoLoRA(tol=0.9))
    assert early.rank == 1 and early.idle == (1, 1)
    assert bool((early.core[1:] == 0).all()) and bool((early.core[:, 1:] == 0).all())
    assert float(opt.state_dict()["window"]["beside"][""].norm()) > 0.01


@each_method
@each_spread
def test_finish_drops_idle_directions_and_changes_no_weight(method: GalerkinMethod, spread: dict[str, Any]) -> None:
    net = network(method)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.05, momentum=0.5, **spread)
    advance(net, opt, 5)
    opt.truncate()
    assert opt.settled
    before = weights(net)
    ranks = {name: layer.rank for name, layer in named_factored_layers(net)}
    idle = {name: layer.idle for name, layer in named_factored_layers(net)}
    assert any(any(each) for each in idle.values()) or method in [METHODS[name] for name in BOUND]
    used = {name: tuple(basis.shape[1] for basis in layer.used_factors().bases) for name, layer in named_factored_layers(net)}
    opt.finish()
    for name, layer in named_factored_layers(net):
        assert torch.dist(layer.dense_weight(), before[name]) < 1e-12
        assert layer.idle == ()
        assert layer.rank == ranks[name]
        assert tuple(basis.shape[1] for basis in layer.bases()) == used[name]
        assert bool(linalg.svd(layer.compact()).sigma[layer.rank - 1] > 0)
    state = copy.deepcopy(net.state_dict())
    opt.finish()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items()), "the second time does nothing"
    advance(net, opt, 4, first=5)
    assert all(torch.isfinite(weight).all() for weight in weights(net).values()), "training may go on"


@each_method
def test_truncate_ends_a_window_as_its_last_step_would_have(method: GalerkinMethod) -> None:
    net = network(method)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.05, momentum=0.5, step="amortised", window=2)
    advance(net, opt, 1)
    twin, longer = copy.deepcopy((net, opt))
    longer.window = 9
    for each, optimizer in ((net, opt), (twin, longer)):
        advance(each, optimizer, 2, first=1)
    assert opt.settled and opt.position == 0
    assert not longer.settled and longer.position == 3
    longer.truncate()
    assert longer.settled and longer.position == 0
    assert_same_network(net, twin, "truncated")
    state = copy.deepcopy(twin.state_dict())
    longer.truncate()
    assert all(torch.equal(value, state[name]) for name, value in twin.state_dict().items()), "nothing is open any more"
    advance(twin, longer, 1, first=3)
    assert longer.position == 1, "the next step turns the bases"


OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "adamw": ("AdamW", {"lr": 0.01, "amsgrad": True}),
    "nadam": ("NAdam", {"lr": 0.01}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "momentum": 0.5}),
    "muon": ("Muon", {"lr": 0.01}),
    "elementwise": ("AdamW", {"lr": 0.01, "moments": "elementwise"}),
}


def optimizer_of(net: nn.Module, kind: str, spread: dict[str, Any]) -> LowRankOptimizer:
    name, options = OPTIMIZERS[kind]
    return LowRankOptimizer(net, getattr(torch.optim, name), **options, **spread)


def assert_same_network(net: nn.Module, other: nn.Module, when: str) -> None:
    assert net.state_dict().keys() == other.state_dict().keys()
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), f"{name}, {when}"
    for name, layer in named_factored_layers(net):
        assert layer.idle == other.get_submodule(name).idle, f"{name}, {when}"


def resumed(
    net: nn.Module, opt: LowRankOptimizer, kind: str, spread: dict[str, Any], path: Path
) -> tuple[nn.Module, LowRankOptimizer]:
    """Return network and optimizer as another process would have them from two files."""
    save(net, path)
    buffer = io.BytesIO()
    torch.save(opt.state_dict(), buffer)
    buffer.seek(0)
    other = load(Small().to(net.head.weight.dtype), path)
    again = optimizer_of(other, kind, spread)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    return other, again


WAYS = {f"{name}, {kind}": (METHODS[name], kind) for name in ("geolora", "dlrt cond", "tdlrt") for kind in OPTIMIZERS}
WAYS |= {f"{name}, sgd": (method, "sgd") for name, method in METHODS.items()}


@pytest.mark.sampled(3)
@each_spread
@pytest.mark.parametrize(("method", "kind"), WAYS.values(), ids=WAYS)
def test_T29_training_goes_on_from_files_bit_for_bit(method: GalerkinMethod, spread: dict, kind: str, tmp_path: Path) -> None:
    net = network(method, torch.float32)
    opt = optimizer_of(net, kind, spread)
    for step in range(4):
        advance(net, opt, 1, first=step)
        other, again = resumed(net, opt, kind, spread, tmp_path / "net.safetensors")
        assert_same_network(net, other, f"loaded after step {step}")
        twin, same = copy.deepcopy((net, opt))
        advance(twin, same, 4, first=step + 1)
        advance(other, again, 4, first=step + 1)
        assert_same_network(twin, other, f"resumed after step {step}")
        assert again.position == same.position and again.steps == same.steps


def test_the_resumed_trainings_have_what_is_to_be_kept() -> None:
    """The test above would say nothing if no layer had idle directions, or no optimizer anything beside a weight."""
    for name, method in METHODS.items():
        for spread in SPREADS.values():
            net = network(method, torch.float32)
            opt = optimizer_of(net, "sgd", spread)
            idle, beside = False, False
            for step in range(6):
                advance(net, opt, 1, first=step)
                idle |= any(layer.idle for _, layer in named_factored_layers(net))
                beside |= any(bool(each.any()) for each in opt.state_dict()["window"]["beside"].values())
            assert beside or name == "geolora budget", name
            assert idle or name in BOUND, name


@each_spread
def test_a_copy_goes_on_alone(spread: dict[str, Any]) -> None:
    net = network(GeoLoRA(tol=0.2))
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.01, **spread)
    advance(net, opt, 2)
    state, moments = copy.deepcopy(net.state_dict()), copy.deepcopy(opt.state_dict())
    twin, copied = copy.deepcopy((net, opt))
    advance(twin, copied, 3, first=2)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    again = LowRankOptimizer(net, torch.optim.AdamW, lr=0.01, **spread)
    again.load_state_dict(moments)
    advance(net, opt, 3, first=2)
    assert_same_network(net, twin, "three steps later")
    copied.param_groups[0]["lr"] = 0.5
    assert opt.param_groups[0]["lr"] == 0.01
    assert copied.inner.param_groups is copied.param_groups


@each_method
def test_a_file_keeps_idle_directions_without_a_word_of_them(method: GalerkinMethod, tmp_path: Path) -> None:
    net = network(method)
    advance(net, LowRankOptimizer(net, torch.optim.SGD, lr=0.05), 4)
    save(net, tmp_path / "net.safetensors")
    assert b"idle" not in (tmp_path / "net.safetensors").read_bytes()
    other = load(Small().double(), tmp_path / "net.safetensors")
    for name, layer in named_factored_layers(net):
        found = other.get_submodule(name)
        assert (found.idle, found.rank, found.inference_parameters()) == (layer.idle, layer.rank, layer.inference_parameters())
    layer = other.hidden
    if layer.idle:
        core, bases = layer.used_factors()
        assert core.shape == tuple(basis.shape[1] for basis in bases)
        assert torch.dist(linalg.multi_product(core, bases), layer.dense_weight().detach()) < 1e-12
        assert layer.singular_values()[-1] > 0, "idle directions are no singular values of the weight"


@each_method
@each_spread
@pytest.mark.parametrize("moments", ["tangent", "elementwise"])
def test_bases_turn_again_after_every_truncation(method: GalerkinMethod, spread: dict[str, Any], moments) -> None:
    net = network(method)
    opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.05, moments=moments, **spread)
    for step in range(0, 12, 4):
        before = net.hidden.U.detach().clone()
        advance(net, opt, 4, first=step)
        assert opt.settled
        assert all(basis.requires_grad for _, layer in named_factored_layers(net) for basis in layer.bases())
        after = net.hidden.U.detach()
        assert torch.dist(after, before @ (before.T @ after)) > 1e-5, f"after step {step} the span has not changed"
