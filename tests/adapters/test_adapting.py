"""Adapters: the function stays, only the updates train, and the sum can be taken away."""

import copy

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, AdaLoRA, CondLR, GeoLoRA, LowRankOptimizer, UserError, adapt, compress, export, load, save, spectra
from robust_lowrank.layers import Adapter, named_factored_layers
from robust_lowrank.layers.forms import form_of
from robust_lowrank.methods.adalora import Sensitivity, kept_triplets, triplet_scores

METHODS = {
    "geolora": GeoLoRA(tol=0.05),
    "dlrt": DLRT(tol=0.05),
    "condlr": CondLR(tau=0.5),
    "condlr unbounded": CondLR(tau=float("inf")),
    "vanilla": "vanilla",
    "lora": "lora",
    "adalora": AdaLoRA(budget=12, steps=30, warmup=3, settle=5),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


class Attention(nn.Module):
    """A convolution, self-attention with separate projections, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 12, 2, stride=2)
        self.query, self.key, self.value, self.out = (nn.Linear(12, 12) for _ in range(4))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).mT
        x = x + self.out(nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x)))
        return self.head(x.mean(1))


def network() -> nn.Module:
    return Attention().double()


def trained(net: nn.Module, x: Tensor, y: Tensor, steps: int, **options) -> list[float]:
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.02, **options)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    losses = [float(opt.step(closure).detach()) for _ in range(steps)]
    opt.finish()
    return losses


@each_method
def test_a_form_counts_what_its_layers_store(method) -> None:
    net = network()
    dense = dict(net.named_modules())
    adapt(net, method=method, rank=3, exclude=["head"])
    for name, layer in named_factored_layers(net):
        assert form_of(layer.method).count(dense[name.removesuffix(".update")], layer.ranks()) == layer.weight_parameters()


def test_two_settings_of_a_method_with_one_budget_are_refused() -> None:
    net = network()
    adapt(net, method=AdaLoRA(budget=4, steps=30), rank=3, exclude=["head", "key", "value", "out"])
    adapt(net, method=AdaLoRA(budget=5, steps=30), rank=3, exclude=["head", r"patch\.base", r"query\.base"])
    with pytest.raises(UserError, match="two settings"):
        LowRankOptimizer(net, torch.optim.SGD, lr=0.1)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.rand(48, 1, 6, 6, dtype=torch.float64), torch.randint(0, 3, (48,))


@each_method
def test_an_adapter_keeps_the_function_and_then_learns_beside_a_frozen_base(method, data) -> None:
    net, (x, y) = network(), data
    before = net(x)
    report = adapt(net, method=method, rank=4, exclude=["head"], trainable=[r"head\..*"], alpha=2.0)
    assert set(report.ranks) == {f"{name}.update" for name in ("patch", "query", "key", "value", "out")}
    assert torch.allclose(net(x), before, atol=1e-12)
    frozen = {name: p.detach().clone() for name, p in net.named_parameters() if ".base." in name}
    losses = trained(net, x, y, 30)
    assert losses[-1] < losses[0] - 0.02
    assert all(torch.equal(p, frozen[name]) for name, p in net.named_parameters() if name in frozen)
    assert not torch.equal(net.head.weight, network().head.weight)
    for _, layer in named_factored_layers(net):
        assert layer.singular_values()[0] > 0
        if isinstance(method, CondLR):
            sigma = layer.singular_values()
            assert sigma[0] / sigma[-1] <= method.cond_bound * (1 + 1e-10)


@each_method
def test_an_adapter_merges_into_ordinary_layers_and_comes_back_from_a_file(method, data, tmp_path) -> None:
    net, (x, y) = network(), data
    adapt(net, method=method, rank=3, exclude=["head"], trainable=[r"head\..*"])
    trained(net, x, y, 5)
    merged = export(net)
    assert not any(isinstance(module, Adapter) for module in merged.modules())
    assert torch.allclose(merged(x), net(x), atol=1e-12)
    save(net, tmp_path / "net.safetensors")
    other = load(network(), tmp_path / "net.safetensors")
    assert torch.equal(other(x), net(x))
    assert torch.equal(load(other, tmp_path / "net.safetensors")(x), net(x))


def test_the_first_step_of_a_zero_update_moves_along_the_gradient(data) -> None:
    """S = 0 is no dead start: dK and dL do not vanish there."""
    net, (x, y) = network(), data
    adapt(net, method=GeoLoRA(tol=0.0), rank=2, exclude=["head"])
    losses = trained(net, x, y, 2)
    assert losses[1] < losses[0]
    assert net.query.update.S.detach().norm() > 0


def test_the_spectrum_of_an_update_is_reported_beside_that_of_its_base(data) -> None:
    net = network()
    adapt(net, method="condlr", rank=2, exclude=["head"])
    frame = spectra(net).set_index("layer")
    assert frame.loc["query.update", "cond"] <= 1.1 * (1 + 1e-9)
    assert not frame.loc["query.base", "factored"]


def test_lora_is_scaled_by_its_rank() -> None:
    net = network()
    adapt(net, method="lora", rank=4, alpha=8.0, exclude=["head"])
    assert net.query.update.alpha == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"trainable": ["nothing"]}, "matches no parameter"),
        ({"exclude": ["nothing"]}, "matches no layer"),
        ({"rank": 0}, "below 1"),
    ],
)
def test_wrong_use_leaves_the_network_alone(options: dict, message: str) -> None:
    net = network()
    with pytest.raises(UserError, match=message):
        adapt(net, **{"rank": 2, **options})
    assert not any(isinstance(module, Adapter) for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_layer_that_cannot_be_adapted_is_named_and_nothing_has_changed() -> None:
    net = network()
    nn.init.zeros_(net.patch.weight)  # no singular values to start a bounded update from
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match="'patch'"):
        adapt(net, method="condlr", rank=2, exclude=["head"])
    assert not any(isinstance(module, Adapter) for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_lora_does_not_train_from_scratch() -> None:
    with pytest.raises(UserError, match="adapt"):
        compress(network(), method="lora", rank=2)


def test_an_adapted_network_is_not_compressed_again() -> None:
    net = network()
    adapt(net, rank=2, exclude=["head"])
    with pytest.raises(UserError, match="frozen base"):
        compress(net, rank=2, exclude=["head"])


def test_adalora_cuts_the_triplets_down_to_its_budget_and_resumes(data, tmp_path) -> None:
    method = AdaLoRA(budget=9, steps=20, warmup=2, settle=4, interval=2)
    net, (x, y) = network(), data
    adapt(net, method=method, rank=4, exclude=["head"])
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.02)

    def advance(net: nn.Module, opt: LowRankOptimizer, steps: int) -> None:
        for _ in range(steps):
            opt.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            opt.step()

    advance(net, opt, 9)
    save(net, tmp_path / "net.safetensors")
    other = load(network(), tmp_path / "net.safetensors")
    for name, parameter in other.named_parameters():
        parameter.requires_grad_(".update." in name)
    resumed = LowRankOptimizer(other, torch.optim.AdamW, lr=0.02)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    advance(net, opt, 12)
    advance(other, resumed, 12)
    values = torch.cat([layer.core.detach() for _, layer in named_factored_layers(net)])
    assert int((values != 0).sum()) == 9
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize(("interval", "settle"), [(1, 0), (7, 0), (7, 3), (100, 0)])
def test_adalora_ends_within_its_budget_whatever_the_interval(data, interval: int, settle: int) -> None:
    net, (x, y) = network(), data
    adapt(net, method=AdaLoRA(budget=5, steps=20, settle=settle, interval=interval), rank=4, exclude=["head"])
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.02)
    for _ in range(20):
        opt.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        opt.step()
    assert sum(int((layer.core != 0).sum()) for _, layer in named_factored_layers(net)) == 5


def test_adalora_weighs_importance_against_uncertainty() -> None:
    method = AdaLoRA(budget=1, steps=10, smoothing=0.5, deviation=0.0)
    w, g = torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0])
    first = method.observe(None, w, g)
    assert torch.equal(first.importance, torch.tensor([1.0, 1.5]))
    assert torch.equal(first.uncertainty, torch.tensor([1.0, 1.5]))
    second = method.observe(first, w, 0 * g)
    assert torch.equal(second.importance, torch.tensor([0.5, 0.75]))
    columns = Sensitivity(torch.tensor([[2.0, 0.0], [0.0, 4.0]]), torch.ones(2, 2))
    assert torch.equal(triplet_scores(columns, first, columns), torch.tensor([1.0 + 1 + 1, 2.25 + 2 + 2]))
    assert [mask.tolist() for mask in kept_triplets([torch.tensor([1.0, 5.0]), torch.tensor([3.0])], 2)] == [[False, True], [True]]


def test_a_method_that_needs_settings_says_which() -> None:
    with pytest.raises(UserError, match="adalora needs budget and steps"):
        adapt(network(), method="adalora")
    with pytest.raises(UserError, match="for the budget to fall"):
        AdaLoRA(budget=4, steps=10, warmup=5, settle=5)
