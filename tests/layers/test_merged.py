"""Merged weights: of recurrent layers, attentions, experts, grouped and transposed convolutions, and whatever else has a matrix."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import robust_lowrank as rlr
from robust_lowrank import LowRankOptimizer, UserError, adapt, compress, export
from robust_lowrank.layers import MergedLayer, named_factored_layers


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.randn(3, 12, 8) / 3), nn.Parameter(torch.randn(3, 8, 12) / 3)
        self.position, self.scale = nn.Parameter(torch.randn(1, 5, 8)), nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        h = x[..., :5, :] + self.position
        h = torch.relu(torch.einsum("bth,eih->beti", h, self.up))
        return torch.einsum("beti,ehi->bth", h, self.down) * self.scale.flatten()


class Scaled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


MODULES = {
    "lstm": (lambda: nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True, proj_size=6), (2, 5, 8), 12),
    "gru": (lambda: nn.GRU(8, 12, batch_first=True), (2, 5, 8), 2),
    "rnn cell": (lambda: nn.RNNCell(8, 12), (4, 8), 2),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (2, 5, 8), 6),
    "experts": (Experts, (2, 5, 8), 6),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4, padding=1), (2, 8, 5, 5), 4),
    "depthwise": (lambda: nn.Conv1d(8, 8, 5, groups=8), (2, 8, 9), 1),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 3, stride=2), (2, 8, 5, 5), 1),
    "transposed in groups": (lambda: nn.ConvTranspose1d(8, 6, 3, groups=2), (2, 8, 5), 2),
    "reflecting": (lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), (2, 8, 5, 5), 1),
    "own forward": (lambda: Scaled(8, 6, 3), (2, 8, 5, 5), 1),
}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
each_module = pytest.mark.parametrize(("build", "shape", "count"), MODULES.values(), ids=MODULES)


def wrapped(module: nn.Module) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            return y[0] if isinstance(y, tuple) else y

    return Net()


@pytest.mark.sampled(2)
@each_module
@pytest.mark.parametrize("method", ["svd", "vanilla", "tdlrt", "spectral-clamp"])
def test_the_function_stays_and_every_copy_and_export_has_it(build, shape, count: int, method: str, tmp_path) -> None:
    torch.manual_seed(0)
    net, x = wrapped(build()).double(), torch.randn(shape, dtype=torch.float64)
    net = net.eval()
    original = copy.deepcopy(net)
    if method == "spectral-clamp":
        compress(net, method=rlr.SpectralClamp(cond=1e9))
    else:
        compress(net, method=method, rank=1.0)
    assert len(list(named_factored_layers(net))) == count
    for mode in (True, False):
        torch.testing.assert_close(net.train(mode)(x), original.train(mode)(x), rtol=1e-7, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(net(x), original(x), rtol=1e-7, atol=1e-8)
    twin = copy.deepcopy(net)
    for form in ("dense", "factors"):
        plain = export(net, to=form)
        if form == "dense":
            assert list(plain.state_dict()) == list(original.state_dict())
            assert [name for name, _ in plain.named_parameters()] == [name for name, _ in original.named_parameters()]
        assert {type(module) for module in plain.modules()} == {type(module) for module in original.modules()} or form == "factors"
        assert all(parameter.requires_grad for parameter in plain.parameters())
        torch.testing.assert_close(plain(x), original(x), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(net(x), twin(x))  # an export changes nothing of what it copies
    rlr.save(net, tmp_path / "net.safetensors")
    for target in (copy.deepcopy(original), twin):
        torch.testing.assert_close(rlr.load(target, tmp_path / "net.safetensors")(x), net(x))


@pytest.mark.sampled(2)
@each_module
@pytest.mark.parametrize("method", ["condlr", "dlrt", "tdlrt", "geolora", "usv"])
def test_a_step_moves_every_block(build, shape, count: int, method: str) -> None:
    torch.manual_seed(0)
    net, x = wrapped(build()), torch.randn(shape)
    compress(net, method=method, rank=rlr.Rank(overrides={".*": 0.5}))
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.01)
    before = {name: layer.dense_weight().detach().clone() for name, layer in named_factored_layers(net)}

    def closure() -> Tensor:
        opt.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss.detach()

    opt.step(closure)
    for name, layer in named_factored_layers(net):
        assert not torch.equal(layer.dense_weight(), before[name]), name
        assert torch.isfinite(layer.dense_weight()).all()


@each_module
def test_the_factors_of_a_block_receive_the_projected_gradients(build, shape, count: int) -> None:
    torch.manual_seed(0)
    net, x = wrapped(build()).double(), torch.randn(shape, dtype=torch.float64)
    compress(net, method="condlr", rank=rlr.Rank(overrides={".*": 0.5}))
    dense = export(net, to="dense")
    for each in (net, dense):
        each(x).square().sum().backward()
    found = {name: layer for name, layer in named_factored_layers(net) if isinstance(layer, MergedLayer)}
    for name, parameter in dense.named_parameters():
        blocks = [layer for block, layer in found.items() if block == name or block.startswith(f"{name}.")]
        if not blocks:
            continue
        g = parameter.grad.reshape(sum(layer.weight_shape[0] for layer in blocks), -1)
        for layer, part in zip(blocks, g.split([layer.weight_shape[0] for layer in blocks]), strict=True):
            u, v = layer.bases()
            for slot, due in ((u.grad, part @ v), (layer.core.grad, u.T @ part @ v), (v.grad, part.T @ u)):
                torch.testing.assert_close(slot, due, rtol=1e-9, atol=1e-9)


def test_an_adapter_of_merged_weights(tmp_path) -> None:
    torch.manual_seed(0)
    net, x, y = wrapped(nn.LSTM(8, 12, batch_first=True)), torch.randn(16, 5, 8), torch.randn(16, 5, 12)
    original = copy.deepcopy(net)
    report = adapt(net, method="geolora", rank=2)
    assert set(report.ranks) == {"inner.weight_ih_l0.update", "inner.weight_hh_l0.update"}
    torch.testing.assert_close(net(x), original(x))
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=0.05)
    losses = []
    for _ in range(40):
        opt.zero_grad()
        losses.append(nn.functional.mse_loss(net(x), y))
        losses[-1].backward()
        opt.step()
    assert losses[-1].item() < 0.9 * losses[0].item()
    with rlr.without_updates(net):
        torch.testing.assert_close(net(x), original(x))
    rlr.save(net, tmp_path / "adapter.safetensors")
    torch.testing.assert_close(rlr.load(original, tmp_path / "adapter.safetensors")(x), net(x))
    merged = export(net, to="dense")
    assert not parametrize.is_parametrized(merged.inner)
    torch.testing.assert_close(merged(x), net(x))
    assert "inner.weight_hh_l0.update" in set(rlr.spectra(net)["layer"])


def test_spectra_name_the_blocks_and_count_no_weight_twice() -> None:
    net = nn.Sequential(nn.Conv2d(8, 12, 3, groups=2), nn.MultiheadAttention(8, 2))
    compress(net, method="condlr", rank=0.5)
    frame = rlr.spectra(net)
    assert frame["layer"].tolist() == [
        *("0.weight.0", "0.weight.1", "1.out_proj", "1.in_proj_weight.q", "1.in_proj_weight.k", "1.in_proj_weight.v")
    ]
    assert (frame["cond"] <= 1.1 + 1e-5).all()


def test_a_merged_weight_cannot_be_assigned() -> None:
    net = nn.Sequential(nn.Conv2d(8, 12, 3, groups=2))
    compress(net, method="condlr", rank=0.5)
    with pytest.raises(UserError, match="is factored: export the network first"):
        net[0].weight = torch.zeros(12, 4, 3, 3)


def test_parametrized_copies_do_not_share_what_an_export_changes() -> None:
    net = nn.Sequential(nn.GRU(8, 12))
    compress(net, method="condlr", rank=0.5)
    twin = copy.deepcopy(net)
    export(net, to="dense")
    assert parametrize.is_parametrized(twin[0], "weight_hh_l0") and parametrize.is_parametrized(net[0], "weight_hh_l0")
    twin(torch.randn(2, 3, 8))[0].sum().backward()
