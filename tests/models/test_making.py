"""Dense networks by name: what a function returns is tried before anything depends on it."""

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.models import Normalize, build, make

SHAPE, CLASSES = (1, 4, 4), 3


def network(num_classes: int = CLASSES) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, num_classes))


class Returns(nn.Module):
    """Returns what a function makes of logits and mode."""

    def __init__(self, change: Callable[[Tensor, bool], Any]) -> None:
        super().__init__()
        self.inner, self.change = nn.Linear(16, CLASSES), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.inner(x.flatten(1)), self.training)


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], str]:
    """Put a function into a module, and return its name."""

    def put(function: object) -> str:
        module = types.ModuleType("nets_of_mine")
        module.made = function  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return "nets_of_mine:made"

    return put


def made(source: str, **options: Any) -> nn.Module:
    return make(source, **({"input_shape": SHAPE, "num_classes": CLASSES} | options))


def test_a_function_draws_weights_by_the_seed(define: Callable[[object], str]) -> None:
    source = define(network)
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        networks.append(made(source)[0].weight)
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])


def test_it_leaves_modes_statistics_and_the_generator_as_the_function_did(define: Callable[[object], str]) -> None:
    source = define(network)
    torch.manual_seed(0)
    expected, after = network(), torch.rand(1)
    torch.manual_seed(0)
    found = made(source)
    assert torch.equal(torch.rand(1), after)
    assert all(module.training for module in found.modules())
    assert {key: value.tolist() for key, value in found.state_dict().items()} == {
        key: value.tolist() for key, value in expected.state_dict().items()
    }


def test_a_function_that_returns_one_object_is_called_as_if_it_made_new_ones(define: Callable[[object], str]) -> None:
    one = network()
    source = define(lambda: one)
    first, second = made(source), made(source)
    nn.init.zeros_(first[0].weight)
    assert torch.equal(second[0].weight, one[0].weight)
    assert one[0].weight.any()


def test_lazy_layers_get_their_weights(define: Callable[[object], str]) -> None:
    found = made(define(lambda: nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(CLASSES))))
    assert found[3].weight.shape == (CLASSES, 8)
    assert found.training


def test_normalised_inputs(define: Callable[[object], str]) -> None:
    one = network().eval()
    found = made(define(lambda: one), mean=(0.5,), std=(0.2,)).eval()
    x = torch.rand(2, *SHAPE)
    torch.testing.assert_close(found(x), one((x - 0.5) / 0.2))
    ours = make("cnn", input_shape=(1, 8, 8), num_classes=3, mean=(0.5,), std=(0.2,))
    assert [float(module.mean) for module in ours.modules() if isinstance(module, Normalize)] == [0.5]


def test_architectures_of_this_package_are_built_as_ever() -> None:
    torch.manual_seed(0)
    ours = make("cnn", input_shape=(1, 8, 8), num_classes=3)
    torch.manual_seed(0)
    assert torch.equal(ours.get_parameter("conv1.weight"), build("cnn", input_shape=(1, 8, 8), num_classes=3).conv1.weight)


def test_names_of_torchvision() -> None:
    assert make("torchvision:resnet18", input_shape=(3, 32, 32), num_classes=4).get_submodule("fc").out_features == 4


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: network(7), "logits of 7 classes, and the data have 3"),
        (lambda: nn.Sequential(network(), nn.Softmax(1)), "probabilities, not logits"),
        (nn.Identity, r"a tensor of shape \(4, 1, 4, 4\) for 4 images"),
        (lambda: nn.Sequential(nn.Conv2d(3, 2, 3)), r"cannot take a batch of shape \(4, 1, 4, 4\): RuntimeError"),
        (lambda: Returns(lambda logits, training: logits / 0), "not finite"),
        (lambda: Returns(lambda logits, training: {"logits": logits}), "a dict for 4 images,"),
        (
            lambda: Returns(lambda logits, training: (logits, logits) if training else logits),
            "a tuple for 4 images in training mode",
        ),
        (lambda: Returns(lambda logits, training: logits.argmax(1)), r"a tensor of shape \(4,\)"),
        (lambda width: nn.Linear(width, CLASSES), "asks for width"),
        (lambda: "a network", "returned a str"),
    ],
)
def test_networks_that_cannot_be_trained(function: object, message: str, define: Callable[[object], str]) -> None:
    with pytest.raises(UserError, match=message) as caught:
        made(define(function))
    assert len(str(caught.value).splitlines()) <= 2
