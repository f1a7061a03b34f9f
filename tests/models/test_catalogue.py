import os

import pytest
import torch
from torch import nn

from robust_lowrank import compress
from robust_lowrank.data import load
from robust_lowrank.errors import UserError
from robust_lowrank.models import MODELS, Normalize, ResNet20, build, classifier

SHAPES = {"mlp": (1, 8, 8), "cnn": (1, 8, 8), "lenet5": (1, 28, 28), "resnet20": (3, 32, 32), "vgg16": (3, 32, 32)}
SHAPES |= {"resnet18": (3, 32, 32), "wrn16-4": (3, 32, 32), "vit": (3, 32, 32)}
SHAPES |= dict.fromkeys(("resnet18-quarter", "wrn16-1", "vgg16-quarter"), (3, 32, 32))


@pytest.mark.parametrize("name", MODELS)
def test_images_become_logits(name: str) -> None:
    model = build(name, input_shape=SHAPES[name], num_classes=7)
    logits = model(torch.rand(2, *SHAPES[name]))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_makes_the_logits(name: str) -> None:
    model = build(name, input_shape=SHAPES[name], num_classes=7).eval()
    layer = model.get_submodule(classifier(model))
    assert isinstance(layer, nn.Linear)
    outputs = []
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    logits = model(torch.rand(2, *SHAPES[name]))
    assert torch.equal(outputs[0], logits)


def test_parameter_counts_are_those_of_the_papers() -> None:
    counts = {name: sum(p.numel() for p in build(name, input_shape=SHAPES[name], num_classes=10).parameters()) for name in MODELS}
    assert counts["lenet5"] == 431_080
    assert counts["resnet20"] == 269_722
    assert counts["resnet18"] == 11_173_962  # of the network with a 3 x 3 stem, as CIFAR's codes have it
    assert counts["wrn16-4"] == 2_748_890
    assert counts["wrn16-1"] == 175_066


def test_a_network_without_linear_layers_has_no_classifier() -> None:
    with pytest.raises(UserError, match="no linear layer"):
        classifier(nn.Conv2d(1, 1, 1))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lenet5", (1, 8, 8), "lenet5 needs images of 28 x 28, not 8 x 8"),
        ("vgg16", (1, 28, 28), "vgg16 needs images of 32 x 32"),
        ("cnn", (1, 3, 8), "at least 4 x 4"),
        ("resnet20", (3, 2, 2), "at least 4 x 4"),
        ("mlp", (8, 8), "needs an input shape"),
        ("resnet18", (3, 4, 4), "at least 8 x 8"),
        ("wrn16-4", (3, 3, 3), "at least 4 x 4"),
        ("vit", (1, 28, 30), "patches of 4 x 4: 28 x 30"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, input_shape=shape, num_classes=10)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown model 'lenet': did you mean 'lenet5'\?"):
        build("lenet", input_shape=(1, 28, 28), num_classes=10)


def test_images_of_another_shape_are_not_broadcast() -> None:
    model = build("resnet20", input_shape=(3, 32, 32), num_classes=10)
    with pytest.raises(UserError, match=r"built for images of \(3, 32, 32\), not \(1, 32, 32\)"):
        model(torch.rand(2, 1, 32, 32))


def test_normalisation_is_by_channel_and_not_trained() -> None:
    normalize = Normalize((2, 4, 4), mean=(0.5, 0.0), std=(0.25, 1.0))
    x = torch.rand(3, 2, 4, 4)
    assert torch.equal(normalize(x), torch.stack([(x[:, 0] - 0.5) / 0.25, x[:, 1]], dim=1))
    assert not list(normalize.parameters())
    assert set(normalize.state_dict()) == {"mean", "std"}


def test_the_skip_connections_reach_the_output() -> None:
    model = build("resnet20", input_shape=(3, 32, 32), num_classes=10).eval()
    assert isinstance(model, ResNet20)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for block in (block for stage in (model.layer1, model.layer2, model.layer3) for block in stage):
            block.conv2.weight.zero_()
            block.bn2.bias.zero_()
        stem = torch.relu(model.bn1(model.conv1(model.normalize(x))))
        reduced = torch.cat([torch.zeros(2, 24, 8, 8), stem[:, :, ::4, ::4], torch.zeros(2, 24, 8, 8)], dim=1)
        assert torch.allclose(model(x), model.linear(reduced.mean(dim=(2, 3))))


def test_wrn_has_its_layers_and_its_shortcuts() -> None:
    model = build("wrn16-4", input_shape=(3, 16, 16), num_classes=10).eval()
    kernels = [module.kernel_size[0] for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert (kernels.count(3), kernels.count(1)) == (13, 3)
    x = model.conv1(model.normalize(torch.rand(2, 3, 16, 16)))
    for block in model.blocks:
        block.conv2.weight.data.zero_()
        activated = nn.functional.leaky_relu(block.bn1(x))
        expected = x if block.shortcut is None else block.shortcut(activated)
        x = block(x)
        assert torch.equal(x, expected)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("wrn16-4", 16),
        ("vit", 6 * 6 + 1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("resnet18", 20), ("vgg16", 15))),
    ],
)
def test_every_layer_but_the_classifier_can_be_factored(name: str, layers: int) -> None:
    model = build(name, input_shape=SHAPES[name], num_classes=10)
    report = compress(model, method="condlr", rank=0.25, exclude=[classifier(model).replace(".", r"\.")])
    assert len(report.ranks) == layers
    assert model(torch.rand(2, *SHAPES[name])).shape == (2, 10)


@pytest.mark.slow
def test_the_transformer_looks_at_positions_and_learns() -> None:
    torch.manual_seed(0)
    digits = load("digits").first(train=256, test=64)
    model = build("vit", input_shape=digits.input_shape, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(digits.train_x), digits.train_y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    x = digits.test_x
    assert not torch.allclose(model(x), model(x.roll(4, dims=3)), atol=1e-3)


def test_published_cifar10_weights_fit_and_classify() -> None:
    weights, data_dir = os.environ.get("RLR_TEST_RESNET20"), os.environ.get("RLR_TEST_CIFAR10")
    if weights is None or data_dir is None:
        pytest.skip(
            "needs resnet20-12fca82f.th of github.com/akamaster/pytorch_resnet_cifar10 (set RLR_TEST_RESNET20 to it) "
            "and CIFAR-10 (set RLR_TEST_CIFAR10 to its directory)"
        )
    model = ResNet20((3, 32, 32), 10, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).eval()
    stored = torch.load(weights, weights_only=True, map_location="cpu")["state_dict"]
    keys = model.load_state_dict({key.removeprefix("module."): value for key, value in stored.items()}, strict=False)
    assert keys.unexpected_keys == []
    assert sorted(keys.missing_keys) == ["normalize.mean", "normalize.std"]
    data = load("cifar10", data_dir=data_dir).first(test=1000)
    with torch.no_grad():
        correct = (model(data.test_x).argmax(dim=1) == data.test_y).float().mean()
    assert float(correct) == pytest.approx(0.915, abs=0.002)
