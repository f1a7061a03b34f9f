"""AutoLoRa: which inputs train which parameters, by which weights, and what remains when the updates are dropped."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank import DLRT, AdaLoRA, AutoLoRa, CondLR, GeoLoRA, LowRankOptimizer, UserError, adapt, without_updates
from robust_lowrank.data import load
from robust_lowrank.evaluation import L2, KeyedNoise, Linf
from robust_lowrank.layers import Adapter, named_factored_layers
from robust_lowrank.methods import Method
from robust_lowrank.models import build
from robust_lowrank.training.adversarial import pgd

METHODS = {name: name for name in ("lora", "scaled-lora", "stella", "geolora", "dlrt", "rgd", "vanilla", "usv")}
METHODS |= {"adalora": AdaLoRA(budget=3, steps=30, warmup=3, settle=5)}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
HEAD = [r"head\..*"]


class Net(nn.Module):
    """A convolution with BatchNorm, a hidden layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(54, 12)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(F.relu(self.norm(self.conv(x))).flatten(1))))


def batch(count: int = 16) -> tuple[Tensor, Tensor]:
    return torch.rand(count, 1, 5, 5, dtype=torch.float64), torch.randint(0, 3, (count,))


def adapted(method: str | Method = "lora", *, moved: bool = True) -> Net:
    """Return a network with adapters, whose updates are somewhere."""
    net = Net().double()
    adapt(net, method=method, rank=2, exclude=["head"])
    if moved:
        for module in net.modules():
            if isinstance(module, Adapter):
                for parameter in module.update.parameters():
                    parameter.data += 0.3 * torch.randn_like(parameter)
    return net


def updates(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in net.named_parameters() if ".update." in name}


def bases(net: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in net.named_parameters() if ".update." not in name and not name.startswith("head")}


def plain(net: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Compute the logits of `Net` from merged weights and batch statistics, without the layers under test."""
    hidden = F.conv2d(x, weights["conv"], weights["conv_bias"])
    mean, variance = hidden.mean((0, 2, 3), keepdim=True), hidden.var((0, 2, 3), keepdim=True, unbiased=False)
    hidden = (hidden - mean) / (variance + 1e-5).sqrt() * weights["scale"][:, None, None] + weights["shift"][:, None, None]
    hidden = F.relu(hidden).flatten(1) @ weights["hidden"].T + weights["hidden_bias"]
    return F.relu(hidden) @ weights["head"].T + weights["head_bias"]


def merged(net: nn.Module, *, updated: bool) -> dict[str, Tensor]:
    """Return the weights that `plain` takes, of the base or of the sum, as leaves."""
    found = {"conv_bias": net.conv.base.bias, "hidden_bias": net.hidden.base.bias, "scale": net.norm.weight, "shift": net.norm.bias}
    found |= {"head": net.head.weight, "head_bias": net.head.bias}
    for name in ("conv", "hidden"):
        adapter = getattr(net, name)
        found[name] = adapter.base.weight + (adapter.update.alpha * adapter.update.dense_weight() if updated else 0.0)
    return {name: value.detach().clone().requires_grad_() for name, value in found.items()}


def divergence(logits: Tensor, perturbed: Tensor) -> Tensor:
    p, q = logits.softmax(1), perturbed.softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


def test_each_parameter_has_the_gradient_of_the_inputs_that_are_to_train_it() -> None:
    net, (x, y) = adapted("vanilla"), batch()
    shifted = (x + 0.05 * torch.randn_like(x)).clamp(0, 1)
    auto = AutoLoRa(net, eps=0.1, head=HEAD, accuracy=0.75, beta=4.0)
    loss = auto.loss(x, shifted, y)
    loss.backward()
    sums, alone = merged(net, updated=True), merged(net, updated=False)
    natural, perturbed = plain(net, sums, x), plain(net, alone, shifted)
    due = 0.25 * F.cross_entropy(natural, y) + 0.75 * F.cross_entropy(perturbed, y) + 3.0 * divergence(natural, perturbed)
    due.backward()
    assert float(loss.detach()) == pytest.approx(float(due.detach()), abs=1e-12)

    def close(found: Tensor | None, expected: Tensor | None) -> bool:
        assert found is not None
        assert expected is not None
        return torch.allclose(found, expected, atol=1e-12, rtol=1e-10) and bool(found.abs().max() > 1e-6)

    for name in ("conv", "hidden"):
        adapter = getattr(net, name)
        slope = sums[name].grad
        assert slope is not None
        slope = slope.flatten(1)
        update = adapter.update
        assert close(update.A.grad, adapter.update.alpha * slope @ update.B.detach())
        assert close(update.B.grad, adapter.update.alpha * slope.T @ update.A.detach())
        assert close(adapter.base.weight.grad, alone[name].grad)
    assert close(net.hidden.base.bias.grad, alone["hidden_bias"].grad)
    assert close(net.norm.weight.grad, alone["scale"].grad)
    assert close(net.norm.bias.grad, alone["shift"].grad)
    for parameter, name in ((net.head.weight, "head"), (net.head.bias, "head_bias")):
        slopes = sums[name].grad, alone[name].grad
        assert slopes[0] is not None
        assert slopes[1] is not None
        assert close(parameter.grad, slopes[0] + slopes[1])


@each_method
def test_natural_inputs_train_updates_and_adversarial_ones_the_rest(method: str | Method) -> None:
    x, y = batch()

    def gradients(accuracy: float, head: list[str]) -> dict[str, Tensor | None]:
        torch.manual_seed(1)
        net = adapted(method)
        auto = AutoLoRa(net, eps=0.1, head=head, accuracy=accuracy, beta=0.0)
        auto.loss(x, x, y).backward()
        return {name: parameter.grad for name, parameter in net.named_parameters()}

    def moved(found: dict[str, Tensor | None]) -> set[str]:
        return {name for name, grad in found.items() if grad is not None and bool(grad.abs().max() > 1e-9)}

    net = adapted(method)
    head = {"head.weight", "head.bias"}
    natural, adversarial = moved(gradients(0.0, HEAD)), moved(gradients(1.0, HEAD))
    assert natural <= set(updates(net)) | head
    assert head <= natural
    assert all(any(name.startswith(layer) for name in natural) for layer in ("conv.update", "hidden.update"))
    assert adversarial == {*bases(net), *head} - {"conv.base.bias"}  # which BatchNorm takes out again
    assert moved(gradients(0.0, [])) == natural - head


@pytest.mark.filterwarnings("ignore:the bases of a factored layer are not orthonormal:UserWarning")
@each_method
def test_without_updates_a_network_is_its_base(method: str | Method) -> None:
    net, (x, _) = Net().double(), batch()
    net.eval()
    before = net(x)
    copied = copy.deepcopy(net)
    adapt(copied, method=method, rank=2, exclude=["head"])
    for parameter in updates(copied).values():
        parameter.data += 0.3 * torch.randn_like(parameter)
    moved = copied(x)
    assert not torch.allclose(moved, before, atol=1e-3)
    with pytest.raises(ZeroDivisionError), without_updates(copied):
        with without_updates(copied):
            assert torch.equal(copied(x), before)
        assert torch.equal(copied(x), before)
        raise ZeroDivisionError
    assert torch.equal(copied(x), moved)
    AutoLoRa(copied, eps=0.1).finish()
    assert not any(isinstance(module, Adapter) for module in copied.modules())
    assert torch.equal(copied(x), before)
    assert copied.state_dict().keys() == net.state_dict().keys()


def test_the_weights_follow_the_natural_accuracy_of_the_last_epoch() -> None:
    net, (x, y) = adapted(), batch(20)
    auto = AutoLoRa(net, eps=0.1, head=HEAD)
    assert auto.accuracy is None
    assert auto.weights is None
    net.eval()
    with torch.no_grad():
        right = net(x).argmax(1)
    y = torch.where(torch.arange(20) < 15, right, (right + 1) % 3)
    first = float(auto.loss(x, x, y).detach())
    assert auto.weights == pytest.approx((0.25, 0.75, 4.5))
    assert auto.loss(x, x, torch.where(torch.arange(20) < 5, right, (right + 1) % 3)).isfinite()
    assert auto.weights == pytest.approx((0.25, 0.75, 4.5))
    assert float(auto.loss(x, x, y).detach()) == pytest.approx(first, abs=1e-12)
    assert auto.end_epoch() == pytest.approx(35 / 60)
    assert auto.accuracy == pytest.approx(35 / 60)
    assert auto.weights == pytest.approx((25 / 60, 35 / 60, 3.5))
    with pytest.raises(UserError, match="no batch since the last epoch"):
        auto.end_epoch()
    auto.loss(x, x, right)
    assert auto.end_epoch() == 1.0
    assert auto.weights == pytest.approx((0.0, 1.0, 6.0))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_the_attack_is_pgd_on_the_base_and_leaves_everything_as_it_was(norm: str) -> None:
    net, (x, y) = adapted(), batch()
    eps = {"Linf": 0.1, "L2": 0.5}[norm]
    auto = AutoLoRa(net, eps=eps, norm=norm, steps=4, seed=3, head=HEAD)
    net.train()
    state, flags = copy.deepcopy(net.state_dict()), [p.requires_grad for p in net.parameters()]
    random = torch.get_rng_state()
    first, second = auto.perturb(x, y), auto.perturb(x, y)
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    base = copy.deepcopy(net)
    AutoLoRa(base, eps=0.1).finish()
    base.eval()
    threat = {"Linf": Linf, "L2": L2}[norm](eps)
    for step, found in enumerate((first, second)):
        assert bool(threat.contains(x, found).all())
        noise = KeyedNoise(3, "autolora", torch.arange(len(x)), step=step)
        due = pgd(base, x, y, threat, noise=noise, steps=4, step_size=2.5 * eps / 4)
        assert torch.allclose(found, due, atol=1e-12)
    assert not torch.allclose(first, second)
    with torch.no_grad():
        assert F.cross_entropy(base(first), y) > F.cross_entropy(base(x), y)


def test_the_running_statistics_are_those_of_the_base_on_adversarial_inputs() -> None:
    net, (x, y) = adapted(), batch()
    shifted = (x + 0.1).clamp(0, 1)
    auto = AutoLoRa(net, eps=0.1, head=HEAD)
    net.train()
    auto.loss(x, shifted, y)
    hidden = F.conv2d(shifted, net.conv.base.weight, net.conv.base.bias).detach()
    assert torch.allclose(net.norm.running_mean, 0.1 * hidden.mean((0, 2, 3)), atol=1e-12)
    assert torch.allclose(net.norm.running_var, 0.9 + 0.1 * hidden.var((0, 2, 3)), atol=1e-12)
    assert int(net.norm.num_batches_tracked) == 1
    assert net.norm.track_running_stats


@each_method
@pytest.mark.parametrize("step", ["exact", "amortised"])
def test_every_method_trains_its_updates_and_the_base(method: str | Method, step: str) -> None:
    net, (x, y) = adapted(method, moved=False), batch(32)
    auto = AutoLoRa(net, eps=0.02, steps=2, head=HEAD)
    optimizer = LowRankOptimizer(net, torch.optim.SGD, lr=0.1, step=step)
    before = {name: p.detach().clone() for name, p in bases(net).items()}
    flags = {name: p.requires_grad for name, p in updates(net).items()}
    losses = []
    for _ in range(12):
        adversarial = auto.perturb(x, y)

        def closure(adversarial: Tensor = adversarial) -> Tensor:
            optimizer.zero_grad()
            loss = auto.loss(x, adversarial, y)
            loss.backward()
            return loss

        losses.append(float(optimizer.step(closure).detach()))
    optimizer.finish()
    assert losses[-1] < losses[0]
    assert {name: p.requires_grad for name, p in updates(net).items()} == flags
    assert not any(torch.equal(p, before[name]) for name, p in bases(net).items() if name != "conv.base.bias")
    for module in net.modules():
        if isinstance(module, Adapter):
            assert module.update.dense_weight().norm() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": 0}, "eps 0 is not above 0"),
        ({"eps": "wide"}, "eps 'wide' is not a number"),
        ({"norm": "L1"}, "unknown norm 'L1'"),
        ({"steps": 0}, "steps = 0 is not a number of steps"),
        ({"step_size": 0.0}, "step_size = 0.0 must be a positive number"),
        ({"beta": -1.0}, "beta = -1.0 must be a number from 0"),
        ({"accuracy": 1.5}, r"accuracy = 1.5 is outside \[0, 1\]"),
        ({"head": ["fc.*"]}, r"head 'fc\.\*' matches no parameter; there are: .*head\.bias"),
        ({"head": ["("]}, r"head '\(' is not a regular expression"),
    ],
)
def test_wrong_numbers_names_and_patterns_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AutoLoRa(adapted(), **({"eps": 0.1} | options))


@pytest.mark.parametrize("method", [CondLR(tau=0.5), CondLR(tau=float("inf")), GeoLoRA(cond=2.0), DLRT(cond=2.0)])
def test_updates_of_older_files_that_took_a_part_of_the_weights_are_refused(method: Method) -> None:
    net = Net()
    adapt(net, method=method, rank=2, exclude=["head"])
    for _, layer in named_factored_layers(net):
        layer.start = None
    with pytest.raises(UserError, match=r"the update of 'conv' by .* took a part of the weight, .*anew"):
        AutoLoRa(net, eps=0.1)


def test_updates_that_began_with_a_part_of_the_weights_leave_them_whole() -> None:
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    adapt(net, method=CondLR(tau=0.5), rank=2, exclude=["head"])
    AutoLoRa(net, eps=0.1).finish()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.state_dict().keys() == before.keys()


def test_networks_and_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match=r"no adapters .*call adapt first"):
        AutoLoRa(Net(), eps=0.1)
    net, (x, y) = adapted(), batch()
    with pytest.raises(UserError, match=r"inputs lie in \[0, 1\]"):
        AutoLoRa(net, eps=0.1).perturb(x - 0.5, y)
    with pytest.raises(UserError, match="labels are int64"):
        AutoLoRa(net, eps=0.1).perturb(x, y.double())
    with pytest.raises(UserError, match=r"eps 2 is outside the range of Linf"):
        AutoLoRa(net, eps=2.0).perturb(x, y)


def test_optimizers_made_before_are_refused() -> None:
    net, (x, y) = adapted(), batch()
    optimizer = LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    auto = AutoLoRa(net, eps=0.1, head=HEAD)
    auto.loss(x, x, y).backward()
    with pytest.raises(UserError, match="is not among the optimizer's parameters"):
        optimizer.step()


@pytest.mark.slow
def test_a_network_trained_on_clean_digits_becomes_robust() -> None:
    digits = load("digits")
    x, y = digits.train_x[:512], digits.train_y[:512]
    net = build("cnn", input_shape=digits.input_shape, num_classes=10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for index in torch.randperm(len(y)).repeat(10).split(32):
        optimizer.zero_grad()
        F.cross_entropy(net(x[index]), y[index]).backward()
        optimizer.step()
    test_x, test_y = digits.test_x[:200], digits.test_y[:200]
    fragile = robust_accuracy(net, test_x, test_y)
    adapt(net, method="geolora", rank=4, exclude=["fc2"])
    auto = AutoLoRa(net, eps=0.1, steps=5, head=[r"fc2\..*"])
    optimizer = LowRankOptimizer(net, torch.optim.SGD, lr=0.005, momentum=0.9, step="amortised")
    for _ in range(4):
        for index in torch.randperm(len(y)).split(32):
            adversarial = auto.perturb(x[index], y[index])
            optimizer.zero_grad()
            auto.loss(x[index], adversarial, y[index]).backward()
            optimizer.step()
        natural = auto.end_epoch()
    auto.finish()
    assert natural > 0.8
    assert robust_accuracy(net, test_x, test_y) > fragile + 0.1
    assert float((net(test_x).argmax(1) == test_y).float().mean()) > 0.9


def robust_accuracy(net: nn.Module, x: Tensor, y: Tensor) -> float:
    noise = KeyedNoise(1, "test", torch.arange(len(y)))
    found = pgd(net, x, y, Linf(0.1), noise=noise, steps=20, step_size=0.0125)
    return float((net(found).argmax(1) == y).float().mean())
