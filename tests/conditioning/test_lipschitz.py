"""Bounds of networks: exact where they can be, never below what pairs of inputs show, and absent where nothing is known."""

import math
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank import adapt
from robust_lowrank.compression import compress
from robust_lowrank.conditioning import lipschitz, operators
from robust_lowrank.models import build


class Function(nn.Module):
    """A network that is one function, with a linear layer to use."""

    def __init__(self, function: Callable[[Any, Tensor], Any], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.function = function
        self.layer = layer or nn.Linear(4, 4)
        self.register_buffer("shift", torch.tensor([1.0, -3.0, 2.0, 0.5]))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.detach().double(), 2))


def steepest(model: nn.Module, shape: tuple[int, ...], points: int = 20) -> float:
    """Return the largest norm of the Jacobian at random points: never above the Lipschitz constant."""
    model = model.double().eval()
    found = 0.0
    for _ in range(points):
        x = torch.rand(1, *shape, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(model, x)
        assert isinstance(jacobian, Tensor)
        found = max(found, norm(jacobian.reshape(-1, x.numel())))
    return found


EXACT: dict[str, tuple[Callable[[Any, Tensor], Any], Callable[[float], float]]] = {
    "layer": (lambda net, x: net.layer(x), lambda w: w),
    "skip": (lambda net, x: x + net.layer(x), lambda w: 1 + w),
    "in place": (lambda net, x: net.layer(x).relu_(), lambda w: w),
    "concatenation": (lambda net, x: torch.cat([net.layer(x), 2 * x], dim=1), lambda w: math.hypot(w, 2)),
    "difference": (lambda net, x: net.layer(x) - 3 * x, lambda w: w + 3),
    "shift": (lambda net, x: net.layer(x) + net.shift, lambda w: w),
    "scale": (lambda net, x: net.layer(x) * net.shift, lambda w: 3 * w),
    "quotient": (lambda net, x: net.layer(x) / net.shift, lambda w: 2 * w),
    "repeated": (lambda net, x: net.layer(x)[:, None] + net.shift[:, None], lambda w: 2 * w),
    "twice": (lambda net, x: net.layer(x)[:, [0, 1, 2, 3, 0, 1, 2, 3]], lambda w: math.sqrt(2) * w),
    "chunks": (lambda net, x: torch.cat([2 * part for part in net.layer(x).chunk(2, dim=1)], dim=1), lambda w: math.sqrt(8) * w),
    "softmax": (lambda net, x: net.layer(x).softmax(dim=1), lambda w: w / 2),
    "slice": (lambda net, x: net.layer(x)[:, ::2], lambda w: w),
    "mean": (lambda net, x: net.layer(x).reshape(x.shape[0], 2, 2).mean(dim=2), lambda w: w / math.sqrt(2)),
    "activations": (lambda net, x: F.leaky_relu(torch.sigmoid(net.layer(x)), 0.1), lambda w: w / 4),
    "padding": (lambda net, x: F.pad(net.layer(x), (1, 1)), lambda w: w),
    "nothing": (lambda net, x: net.shift + 0 * x, lambda w: 0.0),
    "dead end": (lambda net, x: (net.layer(x), x.softmax(dim=1))[0], lambda w: w),
}


@pytest.mark.parametrize("name", EXACT)
def test_bounds_compose_along_the_graph(name: str) -> None:
    function, wanted = EXACT[name]
    model = Function(function)
    found = lipschitz(model, (4,))
    assert found.reasons == ()
    assert found.bound == pytest.approx(wanted(norm(model.layer.weight)), rel=1e-8)
    assert steepest(model, (4,), 3) <= found.bound


UNBOUNDED: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "gated": (lambda net, x: F.glu(net.layer(x)), "glu has no Lipschitz constant here"),
    "product": (lambda net, x: x * net.layer(x), "both depend on the input"),
    "square": (lambda net, x: x**2, "pow"),
    "quotient": (lambda net, x: net.shift / x, "division by a value that depends"),
    "zero": (lambda net, x: x / (0 * net.shift), "division by zero"),
    "integers": (lambda net, x: F.one_hot(x.argmax(dim=1), 4) + 0.0, "argmax"),
    "batch": (lambda net, x: x - x.mean(dim=0), "mixes the examples of a batch"),
    "branch": (lambda net, x: x if x.sum() > 0 else -x, "reads values of tensors in Python, by __bool__"),
    "wrong shape": (lambda net, x: net.layer(x[:, :2]), "fails on an input of shape (1, 4)"),
    "two outputs": (lambda net, x: (x, x), "something else than one tensor"),
}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_what_is_not_known_has_no_bound_and_a_reason(name: str) -> None:
    function, said = UNBOUNDED[name]
    found = lipschitz(Function(function), (4,))
    assert not found.certified
    assert any(said in reason for reason in found.reasons), found.reasons


def test_a_change_in_place_counts_wherever_what_is_changed_is_used() -> None:
    def scaled(net: Any, x: Tensor) -> Tensor:
        y = net.layer(x)
        y.view(2, 2).mul_(100)
        return y

    def shared(net: Any, x: Tensor) -> Tensor:
        y = net.layer(x)
        z = F.relu(y, inplace=True) + 0
        return z + y

    for function, factor in ((scaled, 100), (shared, 2)):
        model = Function(function)
        assert lipschitz(model, (4,)).bound == pytest.approx(factor * norm(model.layer.weight), rel=1e-8)


def test_a_network_with_a_memory_has_no_bound() -> None:
    def remembered(net: Any, x: Tensor) -> Tensor:
        net.shift.copy_(100 * net.layer(x)[0])
        return net.shift + x

    assert not lipschitz(Function(remembered), (4,)).certified


class Tenfold(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 10 * super().forward(input)


def test_layers_that_compute_something_else_than_their_weight_are_not_taken_for_it() -> None:
    model = Function(lambda net, x: net.layer(x), Tenfold(4, 4))
    assert lipschitz(model, (4,)).bound == pytest.approx(10 * norm(model.layer.weight), rel=1e-8)
    model = Function(lambda net, x: net.layer(x))
    model.layer.register_forward_hook(lambda layer, inputs, output: 10 * output)
    assert lipschitz(model, (4,)).bound == pytest.approx(10 * norm(model.layer.weight), rel=1e-8)


PIECEWISE = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish)
SMOOTH = (nn.Tanh, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Sigmoid, nn.LogSigmoid)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", PIECEWISE + SMOOTH)
def test_activations_have_slopes_up_to_their_constants(kind: type[nn.Module]) -> None:
    activation = kind().double()
    x = torch.linspace(-8, 8, 200_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(activation(x).sum(), x)
    largest, constant = float(slope.abs().max()), lipschitz(activation, (3,)).bound
    assert largest <= constant <= 1.001 * largest


POOLS = [
    (nn.MaxPool2d(2), 1.0),
    (nn.MaxPool2d(3, 2, 1), 2.0),
    (nn.MaxPool2d((2, 3), (2, 1), (0, 1)), math.sqrt(3)),
    (nn.MaxPool2d(2, 1, dilation=3), 2.0),
    (nn.AdaptiveMaxPool2d(5), 2.0),
    (nn.AvgPool2d(2), 0.5),
    (nn.AvgPool2d(3, 2, 1, ceil_mode=True), None),
    (nn.AvgPool2d((3, 2), 1, 1, count_include_pad=False), None),
    (nn.AdaptiveAvgPool2d(1), 1 / 8),
    (nn.AdaptiveAvgPool2d((3, None)), None),
]


@pytest.mark.parametrize(("pool", "wanted"), POOLS)
def test_pooling_has_its_exact_constant_where_it_is_linear(pool: nn.Module, wanted: float | None) -> None:
    constant = lipschitz(pool, (1, 8, 8)).bound
    units = torch.eye(64, dtype=torch.float64).reshape(64, 1, 8, 8)
    if "Avg" in type(pool).__name__:
        assert constant == pytest.approx(norm(pool(units).flatten(1)), rel=1e-8)
    if wanted is not None:
        assert constant == pytest.approx(wanted)
    x = torch.rand(200, 1, 8, 8, dtype=torch.float64)
    moved = x + 0.1 * units[torch.randint(64, (200,))]
    change = (pool(moved) - pool(x)).flatten(1).norm(dim=1)
    assert float(change.max()) <= 0.1 * constant * (1 + 1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn", pytest.param("resnet20", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["dense", "condlr", "tdlrt", "usv"])
def test_no_network_is_steeper_than_its_bound(name: str, method: str) -> None:
    shape = (1, 8, 8)
    model = build(name, input_shape=shape, num_classes=10)
    if method != "dense":
        compress(model, method=method, rank=0.4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(-2, 2)
    found = lipschitz(model, shape)
    assert found.certified, found.reasons
    assert steepest(model, shape, 2) <= found.bound <= 1e12
    assert found.steepness is not None and found.steepness.shape == (10, 10)
    assert float(found.steepness.max()) <= math.sqrt(2) * found.bound


def test_batch_normalisation_counts_with_the_layer_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)).double()
    for index in (1, 3):
        model[index].running_var.uniform_(0.1, 3)
    found = lipschitz(model, (2, 6, 6))
    assert found.layers["note"].tolist() == ["0 folded in", ""]
    linear = nn.Sequential(model[0], model[1]).eval()
    assert found.layers["constant"][0] == pytest.approx(steepest(linear, (2, 6, 6), 1), rel=1e-8)
    assert found.layers["constant"][1] == pytest.approx(float((model[3].running_var + 1e-5).rsqrt().max()), rel=1e-8)
    assert (
        "without running statistics" in lipschitz(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)), (3, 2, 2)).reasons[0]
    )


def test_adapters_are_seen_merged() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    adapt(model, method="lora", rank=2)
    for parameter in model.parameters():
        parameter.data += 0.1
    merged = [layer.dense_layer().weight for layer in (model[0], model[2])]
    assert lipschitz(model, (5,)).bound == pytest.approx(norm(merged[0]) * norm(merged[1]), rel=1e-6)


def test_a_transformer_is_not_certified_and_says_why() -> None:
    found = lipschitz(build("vit", input_shape=(3, 8, 8), num_classes=10), (3, 8, 8))
    assert not found.certified
    assert any("LayerNorm" in reason for reason in found.reasons)
    assert any("scaled_dot_product_attention" in reason for reason in found.reasons)


def test_the_network_stays_as_it_is() -> None:
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    lipschitz(model, (1, 8, 8))
    assert model.training
    assert all(value.dtype == torch.float32 and torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Scaled(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, 10 * weight, bias)


class Tokens(nn.Module):
    """Batch normalisation of (N, L, C) scales the positions, not the features that the linear layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        self.norm.weight.data = torch.tensor([20.0] + [0.1] * 7)
        self.linear.weight.data[0] *= 0.01

    def forward(self, x):
        return self.norm(self.linear(x.flatten(1, 2)))


def hooked(place: str) -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 4))
    owner = network if place == "root" else network[1]
    owner.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 10,))
    return network


def patched() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    network[1].forward = types.MethodType(lambda layer, x: 10 * nn.functional.linear(x, layer.weight, layer.bias), network[1])
    return network


class Stubborn(nn.Sequential):
    def train(self, mode: bool = True):
        return super().train(True)


UNSOUND = {
    "a mean with its own divisor": nn.AvgPool2d(2, divisor_override=1),
    "an overlapping mean with its own divisor": nn.AvgPool2d(3, 1, 1, divisor_override=2),
    "a convolution that scales": Scaled(3, 3, 3),
    "a hook on the network": hooked("root"),
    "a hook on a layer": hooked("layer"),
    "a patched forward": patched(),
    "pooling that takes the batch for channels": nn.Sequential(nn.Flatten(), nn.MaxPool1d(3, 1)),
    "pooling of three axes": Function(lambda _, x: nn.functional.max_pool2d(x[:, 0], 3, 1)),
    "normalised positions": Tokens(),
    "a division that rounds": Function(lambda _, x: torch.div(x, 0.1, rounding_mode="floor")),
    "softplus with a jump": nn.Softplus(beta=1, threshold=0),
    "softplus with a jump, as a function": Function(lambda _, x: nn.functional.softplus(x, 1, 0)),
    "indices": Function(lambda _, x: nn.functional.max_pool2d(x, 2, return_indices=True)[1] * 1.0),
    "dropout that stays on": Stubborn(nn.Dropout(0.5)),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_what_once_was_thought_steeper_than_it_is_has_a_true_bound_or_none(name: str) -> None:
    shape = (1, 8, 8) if name == "normalised positions" else (3, 8, 8)
    found = lipschitz(UNSOUND[name], shape)
    if found.certified:
        assert found.bound >= steepest(UNSOUND[name], shape, points=5)
    else:
        assert found.reasons


NAMED = [
    (lambda _, x: torch.add(x, other=x, alpha=3), 4.0),
    (lambda _, x: torch.sub(x, other=x), 2.0),
    (lambda _, x: torch.div(input=x, other=2), 0.5),
    (lambda _, x: 1 - 2 * x, 2.0),
]


@pytest.mark.parametrize(("function", "wanted"), NAMED)
def test_arguments_may_be_given_by_name(function: Callable[[Any, Tensor], Any], wanted: float) -> None:
    assert lipschitz(Function(function), (3, 4, 4)).bound == pytest.approx(wanted)


def test_pooling_takes_lists() -> None:
    assert lipschitz(nn.AdaptiveAvgPool2d([3, 5]), (3, 9, 10)).certified


def test_a_norm_over_positions_is_not_folded_into_the_features() -> None:
    frame = operators(Tokens(), (1, 8, 8))
    assert frame.loc[0, "folded_bound"] == frame.loc[0, "operator_bound"]
