"""Normalisations are folded where the graph of a network allows it, exactly, and left alone elsewhere."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import compress, export, models
from robust_lowrank.exporting import inference
from robust_lowrank.exporting.inference import channels_last, fastest
from robust_lowrank.exporting.timing import LayerTimes
from robust_lowrank.folding import fastest_exact, fold

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def prepared(net: nn.Module) -> nn.Module:
    """Return a network in float64 and evaluation mode whose normalisations have statistics and weights at random."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, NORMS):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 3)
            if module.weight is not None:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return net.double().eval()


def left(net: nn.Module) -> int:
    return sum(isinstance(module, NORMS) for module in net.modules())


def small(*shape: int) -> Tensor:
    return torch.randn(3, *shape, dtype=torch.float64)


FOLDED: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "linear": (lambda: [nn.Linear(6, 8), nn.BatchNorm1d(8)], (6,)),
    "linear without bias": (lambda: [nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)], (6,)),
    "before linear": (lambda: [nn.BatchNorm1d(6), nn.Linear(6, 8)], (6,)),
    "on both sides": (lambda: [nn.BatchNorm1d(6), nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8)], (6,)),
    "signal": (lambda: [nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6)], (4, 9)),
    "image": (lambda: [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6)], (4, 7, 7)),
    "image, other padding": (lambda: [nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)], (4, 7, 7)),
    "same": (lambda: [nn.Conv2d(4, 6, 3, padding="same", bias=False), nn.BatchNorm2d(6)], (4, 7, 7)),
    "volume": (lambda: [nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3)], (2, 5, 5, 5)),
    "groups": (lambda: [nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (4, 7, 7)),
    "before groups": (lambda: [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)], (4, 7, 7)),
    "before image": (lambda: [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding="valid", dilation=2)], (4, 7, 7)),
    "transposed": (lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), nn.BatchNorm2d(6)], (4, 5, 5)),
    "transposed groups": (lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], (4, 5, 5)),
    "without weights": (lambda: [nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False, eps=0.1)], (6,)),
}


@pytest.mark.parametrize("case", FOLDED)
def test_what_is_folded_computes_the_same(case: str) -> None:
    make, shape = FOLDED[case]
    net, x = prepared(nn.Sequential(*make())), small(*shape)
    before = copy.deepcopy(net.state_dict())
    folded = fold(net, x)
    assert left(folded) == 0 and all(name.endswith(("weight", "bias")) for name in folded.state_dict())
    torch.testing.assert_close(folded(x), net(x), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class Branches(nn.Module):
    """A network in which only the first of its normalisations is alone with its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(4))
        self.norm = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))

    def forward(self, x: Tensor, scale: Tensor | None = None, twice: bool = False) -> Tensor:
        x = self.norm[0](self.conv[0](x))
        y = self.conv[1](x)
        x = torch.relu(self.norm[1](y)) + y  # somebody else looks at the output
        x = torch.relu(self.norm[2](self.conv[2](torch.relu(self.norm[2](self.conv[2](x))))))  # called twice
        x = self.norm[3](self.conv[3](x) * self.conv[3].weight.sum())  # something in between, and the weight is read
        x = torch.relu(x) if scale is None else x * scale
        return self.norm[4](torch.nn.functional.pad(x, (1, 1))) if twice else x


def test_only_what_the_graph_shows_to_be_alone_is_folded() -> None:
    net, x = prepared(Branches()), small(4, 5, 5)
    for given in (x, (x, torch.ones(1, dtype=torch.float64)), {"x": x, "twice": True}):
        folded: Any = fold(net, given)
        assert [isinstance(module, nn.Identity) for module in folded.norm] == [True, False, False, False, False]
        arguments, named = ((), given) if isinstance(given, dict) else (given if isinstance(given, tuple) else (given,), {})
        torch.testing.assert_close(folded(*arguments, **named), net(*arguments, **named), rtol=1e-10, atol=1e-10)


def hooked() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    net[0].register_forward_hook(lambda module, given, out: 2 * out)
    return net


class Decides(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if float(input.sum()) < 1e9 else input


class Half(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / 2


LEFT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "zeros are padded": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)), (4, 7, 7)),
    "channels elsewhere": (lambda: nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)), (5, 5)),
    "statistics of the batch": (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False)), (6,)),
    "something in between": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8)), (6,)),
    "a hook": (hooked, (6,)),
    "no trace": (lambda: Decides(nn.Linear(6, 8), nn.BatchNorm1d(8)), (6,)),
    "another class": (lambda: nn.Sequential(nn.Linear(6, 8), Half(8)), (6,)),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_cannot_be_folded_is_left_alone(case: str) -> None:
    make, shape = LEFT[case]
    net, x = prepared(make()), small(*shape)
    folded = fold(net, x)
    assert left(folded) == 1
    torch.testing.assert_close(folded(x), net(x), rtol=0, atol=0)


def test_a_network_in_training_is_left_alone() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
    before = copy.deepcopy(net.state_dict())
    assert fold(net, torch.rand(3, 6)) is net
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    compress(net, rank=2, include=["0"])
    assert left(export(net, to="auto", example_input=torch.rand(3, 6))) == 1
    assert net.training and all(torch.equal(value, net.state_dict()[key]) for key, value in before.items() if key.startswith("1."))


@pytest.mark.parametrize("method", ["condlr", "tdlrt", "vanilla"])
@pytest.mark.parametrize("form", ["dense", "factors"])
def test_layers_of_every_form_take_their_normalisation(method: str, form: Any) -> None:
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.BatchNorm2d(8)),
        *(nn.ConvTranspose2d(8, 6, 2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(294, 12), nn.BatchNorm1d(12), nn.Linear(12, 4)),
    )
    compress(net, method=method, rank=0.5)
    plain, x = export(prepared(net), to=form).double(), small(3, 8, 8)
    folded = fold(plain, x)
    assert left(plain) == 4 and left(folded) == 0
    torch.testing.assert_close(folded(x), plain(x), rtol=1e-10, atol=1e-10)


def test_auto_is_for_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network that is measured to be the fastest is returned, whatever its order in memory, and computes the same."""
    torch.manual_seed(0)
    net, x = models.build("resnet18-quarter", input_shape=(3, 8, 8), num_classes=10).eval(), torch.rand(4, 3, 8, 8)
    compress(net, rank=0.5, exclude=["linear"])
    times = {"conv1": LayerTimes(2.0, 1.9, True), "blocks.0.conv1": LayerTimes(1.0, 2.0, False)}
    times["blocks.1.conv1"] = LayerTimes(2.0, 1.0, True)
    monkeypatch.setattr(inference, "time_layers", lambda *_: times)
    for winner in range(6):  # three forms of layers in two orders in memory
        seconds = tuple(1.0 if index == winner else 2.0 for index in range(6))
        monkeypatch.setattr(inference, "time_in_turn", lambda networks, _, seconds=seconds: [seconds] * 5)
        found: Any = fastest(net, x)
        weight = found.blocks[1].conv1.weight if winner % 3 == 2 else found.blocks[1].conv1[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == (winner >= 3)
        assert weight.is_contiguous() == (winner < 3)
        assert isinstance(found.conv1, nn.Sequential) == (winner % 3 == 0) and isinstance(found.blocks[0].conv1, nn.Conv2d)
        assert left(found) == 0 and not found.training
        torch.testing.assert_close(found(x), net(x), rtol=1e-4, atol=1e-4)


def test_a_network_that_asks_for_an_order_in_memory_keeps_it() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).view(len(x), -1)

    net, x = Views().eval(), torch.rand(2, 3, 6, 6)
    compress(net, rank=2)
    found: Any = export(net, to="auto", example_input=x)
    torch.testing.assert_close(found(x), net(x), rtol=1e-4, atol=1e-5)
    channels_last(found)
    with pytest.raises(RuntimeError, match="view"):
        found(x)


class Viewed(nn.Sequential):
    """Asks for an order in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).view(x.shape[0], -1)


def linear_and_hook() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    compress(net, method="condlr", rank=2)
    net[0].register_forward_hook(lambda module, given, out: out + 1)
    return net


@pytest.mark.parametrize("method", ["condlr", "tdlrt", "vanilla", "dlrt"])
@pytest.mark.parametrize("rank", [0.2, 1.0])
def test_the_fast_form_is_the_same_network(method: str, rank: float) -> None:
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    compress(net, method=method, rank=rank)
    prepared(net)
    x = small(3, 8, 8)
    form = fastest_exact(net, x)
    torch.testing.assert_close(form(x), net(x), rtol=1e-10, atol=1e-10)
    assert left(net) == 1
    assert left(form) == 0
    assert all(type(module).__module__.startswith("torch") for module in form.modules())
    assert all(
        module.weight.is_contiguous(memory_format=torch.channels_last) for module in form.modules() if type(module) is nn.Conv2d
    )
    chains = sum(isinstance(module, nn.Sequential) for module in form.modules()) - 1
    assert (chains > 0) == (rank == 0.2)
    assert not any(parameter.requires_grad for parameter in form.parameters())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_fast_form_that_asks_for_an_order_in_memory_keeps_it() -> None:
    net = prepared(Viewed(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    x = small(3, 8, 8)
    form = fastest_exact(net, x)
    assert left(form) == 0
    torch.testing.assert_close(form(x), net(x))


def test_what_has_hooks_stays_in_the_fast_form() -> None:
    net = linear_and_hook().eval()
    x = torch.randn(5, 6)
    form = fastest_exact(net, x)
    assert type(form[0]) is type(net[0])
    assert type(form[2]) is not type(net[2])
    torch.testing.assert_close(form(x), net(x))


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(6, 3), nn.ReLU()), lambda: nn.BatchNorm1d(6), Decides])
def test_a_network_that_gains_nothing_has_no_other_form(make: Callable[[], nn.Module]) -> None:
    net = make().eval()
    assert fastest_exact(net, torch.randn(5, 6)) is net


def test_a_network_in_training_has_no_fast_form() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert fastest_exact(net, torch.rand(2, 3, 8, 8)) is net


def test_a_compiled_network_is_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    x = torch.rand(2, 3, 8, 8)
    compiled = torch.compile(net, backend="eager")
    assert fastest_exact(compiled, x) is compiled
    net[0].compile(backend="eager")
    assert fastest_exact(net, x) is net
