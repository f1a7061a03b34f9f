"""Factored layers show what the layers show whose places they take."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils import checkpoint

from robust_lowrank import LowRankOptimizer, adapt, compress, export
from robust_lowrank.layers import LowRankConv, LowRankLinear, named_factored_layers

LAYERS = {
    "linear": (nn.Linear(12, 8), (3, 12)),
    "signals": (nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2), (3, 6, 9)),
    "images": (nn.Conv2d(6, 8, (3, 2), padding="same"), (3, 6, 5, 4)),
    "volumes": (nn.Conv3d(6, 8, 2, stride=(1, 2, 1), bias=False), (3, 6, 4, 4, 4)),
}
each_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)


@each_layer
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_attributes_are_those_of_the_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    old = copy.deepcopy(layer)
    old.note = "mine"
    net = nn.Sequential(old)
    compress(net, method="dlrt", rank=0.5)
    found = net[0]
    for name, value in vars(layer).items():
        if not name.startswith("_"):
            assert getattr(found, name) == value, name
    assert found.note == "mine"
    assert found.weight.shape == layer.weight.shape and found.weight.dtype == layer.weight.dtype
    assert found.weight.device == layer.weight.device
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        found.nothing_of_the_kind  # noqa: B018


@each_layer
@pytest.mark.parametrize("method", ["condlr", "vanilla"])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_the_weight_that_is_read_has_the_gradients_of_the_layer(layer: nn.Module, shape: tuple[int, ...], method: str) -> None:
    net = nn.Sequential(copy.deepcopy(layer)).double()
    compress(net, method=method, rank=0.5)
    called, x = net[0], torch.randn(shape, dtype=torch.float64)
    called(x).square().sum().backward()
    read = copy.deepcopy(called)
    for parameter in read.parameters():
        parameter.grad = None
    reader = copy.deepcopy(layer).double()
    state = {"weight": read.weight} | ({} if read.bias is None else {"bias": read.bias})
    torch.func.functional_call(reader, state, (x,)).square().sum().backward()
    for name, parameter in called.named_parameters():
        torch.testing.assert_close(read.get_parameter(name).grad, parameter.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", ["condlr", "tdlrt", "vanilla"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(3,), (2, 3), (2, 5, 3), ()])
def test_what_follows_may_write_into_the_outputs(method: str, bias: bool, lead: tuple[int, ...]) -> None:
    net = nn.Sequential(nn.Linear(12, 8, bias=bias), nn.ReLU(inplace=True))
    compress(net, method=method, rank=0.25)
    x = torch.randn(*lead, 12)
    copied = copy.deepcopy(net)
    copied[1] = nn.ReLU()
    net(x).sum().backward()
    copied(x).sum().backward()
    for ours, due in zip(net.parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, due.grad)


@each_layer
def test_inputs_without_a_batch(layer: nn.Module, shape: tuple[int, ...]) -> None:
    net, x = nn.Sequential(copy.deepcopy(layer)), torch.randn(shape)
    compress(net, method="tdlrt", rank=0.5)
    torch.testing.assert_close(net(x[0]), net(x)[0])
    torch.testing.assert_close(net(x[0]), export(net, to="dense")(x[0]), rtol=1e-4, atol=1e-5)


def test_a_subclass_with_its_parents_forward_is_a_chain_and_comes_back() -> None:
    class Mine(nn.Linear):
        SIZE = 3

        @staticmethod
        def stride_of(stride: int) -> int:
            return stride

    net = nn.Sequential(Mine(12, 8))
    assert not compress(net, method="dlrt", rank=0.5).merged
    assert isinstance(net[0], LowRankLinear)
    assert (net[0].stride_of(2), net[0].SIZE) == (2, 3)
    assert type(export(net, to="dense")[0]) is Mine


def test_an_adapter_shows_the_merged_weight() -> None:
    net = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2))
    adapt(net, method="condlr", rank=2)
    merged = net[0].dense_layer()
    torch.testing.assert_close(net[0].weight, merged.weight)
    assert net[0].stride == (2, 2) and net[0].bias is net[0].base.bias


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_keep_single_precision_and_the_weight_has_the_networks(early: bool, dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Linear(16, 12), nn.Conv1d(1, 6, 3), nn.GRU(10, 8, batch_first=True))
    net = net.to(dtype) if early else net
    compress(net, method="condlr", rank=0.5)
    net.to(dtype)
    for name, layer in named_factored_layers(net):
        assert {factor.dtype for factor in layer.all_factors()} == {torch.float32}, name
    assert net[0].weight.dtype == net[1].weight.dtype == net[2].weight_hh_l0.dtype == dtype
    x = torch.randn(3, 1, 16, dtype=dtype)
    for form in ("dense", "factors"):
        plain = export(net, to=form)
        assert {parameter.dtype for parameter in plain.parameters()} == {dtype}
        assert plain(x)[0].dtype == dtype
    wide = net.double()
    assert wide[0].weight.dtype == torch.float64 and wide[0].U.dtype == torch.float64


@pytest.mark.slow
@pytest.mark.sampled(3)
@pytest.mark.parametrize("method", ["condlr", "dlrt", "tdlrt", "geolora"])
@pytest.mark.parametrize("how", ["autocast", "whole"])
def test_the_four_methods_train_in_bf16(method: str, how: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.rnn, self.head = nn.Conv1d(6, 16, 3), nn.GRU(16, 24, batch_first=True), nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(torch.tanh(self.conv(x)).mT)[0].mean(1))

    net, dtype = Net(), torch.float32 if how == "autocast" else torch.bfloat16
    net = net.to(dtype)
    compress(net, method=method, rank=0.5, init="kaiming")
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.01)
    x, y = torch.randn(64, 6, 9, dtype=dtype), torch.randint(0, 4, (64,))

    def closure() -> Tensor:
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
            loss = nn.functional.cross_entropy(net(x).float(), y)
        loss.backward()
        return loss.detach()

    losses = [float(opt.step(closure)) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.isfinite(parameter).all() for parameter in net.parameters())


def test_activation_checkpoints_and_hooks_work() -> None:
    net = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 8))
    compress(net, method="condlr", rank=0.5)
    x = torch.randn(3, 12, requires_grad=True)
    net(x).sum().backward()
    due, x.grad = x.grad, None
    checkpoint.checkpoint(net, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(x.grad, due)


def test_the_attributes_of_a_layer_made_of_factors_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1))
    compress(net, method="dlrt", rank=2)
    layer = net[0]
    lone = LowRankConv(layer.factors(), layer.shape, layer.bias)
    assert (lone.in_channels, lone.out_channels, lone.padding) == (3, 8, (1, 1))
    torch.testing.assert_close(lone.weight, layer.weight)
