"""What a pass of a network shows: calls, weights that others read, parameters that are matrices, times and operations."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from robust_lowrank import UserError, compress, export, plan
from robust_lowrank.layers import ChainLayer, named_factored_layers


class Mixed(nn.Module):
    """A network with a matrix of its own, a table, a layer that is read, one that is called twice, and one that takes no part."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.table = nn.Parameter(torch.randn(12, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.read, self.twice, self.idle = nn.Linear(12, 20), nn.Linear(20, 20), nn.Linear(20, 20)
        self.norm, self.drop = nn.BatchNorm1d(20), nn.Dropout(0.5)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        h = (x + self.table) @ self.matrix.mT
        h = nn.functional.linear(h, self.read.weight.to(h.dtype), self.read.bias)
        return scale * self.drop(self.norm(self.twice(torch.relu(self.twice(h))).mT))


X = torch.randn(3, 5, 16)


def test_what_is_read_what_is_a_matrix_and_what_takes_no_part() -> None:
    net = Mixed().eval()
    report = compress(net, method="svd", rank=0.25, example_input=X)
    assert set(report.ranks) == {"matrix", "read.weight", "twice"}
    assert report.merged["read.weight"] == "its layer is never called: its weight is read by another one"
    assert "multiplied with nothing" in report.kept_dense["table"]
    assert "takes no part" in report.kept_dense["idle"]
    assert isinstance(net.twice, ChainLayer) and isinstance(net.read, nn.Linear)
    assert net(X).shape == (3, 20, 5)


def test_without_an_example_a_matrix_of_a_modules_own_is_left() -> None:
    report = compress(Mixed(), method="svd", rank=0.25)
    assert set(report.ranks) == {"read", "twice", "idle"}
    assert "which an example_input tells" in report.kept_dense["matrix"]
    assert set(compress(Mixed(), method="svd", rank=0.25, include=["matrix"]).ranks) == {"matrix"}


def test_the_network_is_left_as_it_was() -> None:
    net = Mixed()
    net.drop.eval()
    before, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    plan(net, rank=0.25, example_input=X)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_operations_calls_and_times() -> None:
    table = plan(Mixed(), rank=0.25, example_input=X).set_index("layer")
    assert table.loc["twice", "calls"] == 2
    assert table.loc["twice", "mflops"] == pytest.approx(2 * 2 * 15 * 20 * 20 / 1e6)
    assert table.loc["twice", "mflops_factored"] == pytest.approx(2 * 2 * 15 * 5 * 40 / 1e6)
    assert table.loc["twice", "milliseconds"] > 0 and table.loc["idle", "calls"] == 0


@pytest.mark.parametrize("example", [(X,), {"x": X, "scale": 2.0}], ids=["tuple", "mapping"])
def test_examples_are_arguments(example: object) -> None:
    assert "matrix" in compress(Mixed(), method="svd", rank=0.25, example_input=example).ranks


def test_an_example_that_does_not_fit_is_an_error_and_changes_nothing() -> None:
    net = Mixed().eval()
    with pytest.raises(UserError, match="does not run on example_input"):
        compress(net, rank=0.25, example_input=torch.randn(3, 4))
    assert not list(named_factored_layers(net)) and not net.training and not net.norm.num_batches_tracked


def test_include_takes_names_types_and_predicates() -> None:
    net = nn.ModuleDict({"words": nn.Embedding(30, 20), "first": nn.Linear(20, 20), "second": nn.Linear(20, 20)})
    for include, due in (
        (["words"], {"words.weight"}),
        ([nn.Embedding, "second"], {"words.weight", "second"}),
        (lambda name, module: name.startswith("f"), {"first"}),
        (nn.Linear, {"first", "second"}),
    ):
        assert set(compress(copy.deepcopy(net), method="svd", rank=0.25, include=include).ranks) == due
    assert set(compress(copy.deepcopy(net), rank=0.25, exclude=[nn.Embedding, "first"]).ranks) == {"second"}
    for wrong, message in ((["third"], "matches no layer"), ([nn.Conv2d], "Conv2d"), ([3], "no regular expression, type")):
        with pytest.raises(UserError, match=message):
            compress(net, rank=0.25, include=wrong)


def test_a_module_under_two_names_is_factored_once() -> None:
    net, x = nn.Sequential(nn.Linear(20, 20), nn.ReLU()), torch.randn(2, 20)
    net.append(net[0])
    net.append(nn.Conv1d(2, 4, 3, groups=2))
    net.append(net[3])
    report = compress(net[:3], method="svd", rank=1.0)
    first, _, last = net[:3]
    assert report.ranks == {"0": 20} and first is last
    before = net[:3](x)
    assert torch.allclose(export(net[:3], to="dense")(x), before, atol=1e-5)
    dense = export(net[:3], to="dense")
    assert dense[0] is dense[2]


def test_swin_reads_the_weights_of_its_attentions() -> None:
    net = torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=3, stochastic_depth_prob=0.0).eval()
    x = torch.rand(1, 3, 32, 32)
    before = net(x)
    report = compress(net, method="svd", rank=1.0, example_input=x)
    assert "features.1.0.attn.qkv.weight" in report.merged
    for mode in (False, True):
        assert torch.allclose(net.train(mode)(x), before, atol=1e-5)
