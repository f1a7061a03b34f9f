import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from robust_lowrank.compression import compress
from robust_lowrank.data import load, unit_range
from robust_lowrank.errors import TrainingError
from robust_lowrank.layers import FactoredLayer, named_factored_layers
from robust_lowrank.methods import METHODS, CondLR, RobustDLRT
from robust_lowrank.models import build
from robust_lowrank.training import MethodConfig, TrainingConfig
from robust_lowrank.training.loop import Examples, Loop, accuracy


def digits(count: int) -> Examples:
    data = load("digits")
    return Examples(data.train_images[:count], data.train_y[:count])


def nothing() -> None:
    return None


class Recorder(nn.Module):
    """A classifier that keeps what it is shown: each image is its own number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 2))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.flatten())
        return x.flatten(1) @ self.weight


def test_an_epoch_visits_every_example_once_in_batches_of_like_size() -> None:
    model = Recorder()
    numbers = torch.arange(100, dtype=torch.float32) / 100
    examples = Examples(numbers.reshape(-1, 1, 1, 1), torch.zeros(100, dtype=torch.int64))
    loop = Loop(model, examples, TrainingConfig(batch_size=33), seed=0)
    loop.epoch(on_step=nothing)
    first = torch.cat(model.seen)
    assert [len(batch) for batch in model.seen] == [25, 25, 25, 25]
    assert torch.equal(first.sort().values, numbers)
    assert not torch.equal(first, numbers)
    model.seen.clear()
    loop.epoch(on_step=nothing)
    assert not torch.equal(torch.cat(model.seen), first)


def test_the_outcome_is_the_mean_over_the_examples_before_each_step() -> None:
    examples = digits(100)
    model = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    with torch.no_grad():
        logits = model(examples.images)
    config = TrainingConfig.model_validate({"epochs": 1, "batch_size": 33, "lr": 1e-12, "schedule": "constant"})
    outcome = Loop(model, examples, config, seed=0).epoch(on_step=nothing)
    assert outcome.loss == pytest.approx(float(nn.functional.cross_entropy(logits, examples.labels)), rel=1e-5)
    assert outcome.accuracy == int((logits.argmax(dim=1) == examples.labels).sum()) / 100
    assert outcome.lr == 1e-12


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "method", [None, *(pytest.param(name, marks=[pytest.mark.slow] if name == "robust-dlrt" else []) for name in METHODS)]
)
def test_every_method_learns_the_digits(method: str | None) -> None:
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    if method is not None:
        rank = 0.25 if METHODS[method].ranked else None
        compress(model, method=method, rank=rank, exclude=["fc2"], init="kaiming")
    adamw = {"optimizer": "adamw", "lr": 0.003}  # plain descent on U, S and V diverges at the rate of the others
    config = TrainingConfig(epochs=5, batch_size=20, **(adamw if method == "usv" else {}))
    loop = Loop(model, digits(400), config, seed=0)
    outcomes = [loop.epoch(on_step=nothing) for _ in range(5)]
    assert outcomes[-1].loss < 0.5 * outcomes[0].loss
    assert accuracy(model, digits(400)) > 0.85


@pytest.mark.parametrize("method", ["condlr", "dlrt", "tdlrt", "geolora", "vanilla"])
def test_T24_biases_batch_norm_and_skips_of_a_compressed_resnet_train(method: str) -> None:
    torch.manual_seed(0)
    model = build("resnet20", input_shape=(3, 8, 8), num_classes=10)
    compress(model, method=method, rank=0.25, exclude=["linear"], init="kaiming")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    examples = Examples(torch.rand(32, 3, 8, 8), torch.randint(10, (32,)))
    outcome = Loop(model, examples, TrainingConfig(epochs=1, batch_size=16), seed=0).epoch(on_step=nothing)
    assert math.isfinite(outcome.loss)
    after = model.state_dict()
    frozen = {"normalize.mean", "normalize.std"}
    still = {key for key, value in after.items() if value.shape == before[key].shape and torch.equal(value, before[key])}
    assert still == frozen
    assert {"bn1.weight", "layer2.0.bn1.bias", "layer3.2.bn2.running_var", "linear.bias"} <= after.keys()
    assert after["bn1.num_batches_tracked"] == 2  # once a step, however often the method evaluates


def test_T24_a_skip_carries_gradients_around_a_compressed_block() -> None:
    model = build("resnet20", input_shape=(3, 8, 8), num_classes=10)
    compress(model, method="condlr", rank=0.25, exclude=["linear"], init="kaiming")
    block = model.get_submodule("layer1.1")
    with torch.no_grad():
        for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.weight.zero_()
            norm.bias.zero_()
    examples = Examples(torch.rand(16, 3, 8, 8), torch.randint(10, (16,)))
    stem = model.get_submodule("layer1.0.conv1")
    assert isinstance(stem, FactoredLayer)
    before = stem.core.detach().clone()
    Loop(model, examples, TrainingConfig(epochs=1), seed=0).epoch(on_step=nothing)
    assert not torch.equal(stem.core, before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_T24_weight_decay_leaves_the_bases_orthonormal(optimizer: str) -> None:
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    compress(model, method=CondLR(tau=0.5), rank=0.25, exclude=["fc2"], init="kaiming")
    config = TrainingConfig.model_validate({"epochs": 1, "batch_size": 20, "optimizer": optimizer, "lr": 0.01, "weight_decay": 0.1})
    Loop(model, digits(200), config, seed=0).epoch(on_step=nothing)
    for layer in (layer for layer in model.modules() if isinstance(layer, FactoredLayer)):
        for basis in layer.bases():
            assert float((basis.T @ basis - torch.eye(basis.shape[1])).detach().norm()) < 1e-5


@pytest.mark.parametrize("compressed", [False, True])
def test_a_loss_that_is_not_finite_stops_training(compressed: bool) -> None:
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    if compressed:
        compress(model, method="condlr", rank=0.25, exclude=["fc2"])
    config = TrainingConfig.model_validate({"epochs": 1, "batch_size": 20, "lr": 1e6, "schedule": "constant"})
    loop = Loop(model, digits(200), config, seed=0)
    with pytest.raises(TrainingError, match=r"training stopped in epoch 1 at step \d+: .*layer.*smaller learning rate"):
        loop.epoch(on_step=nothing)


def test_T25_accuracy_of_a_constant_prediction_is_exact() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.tensor([0.0, 2.0, 1.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(x), 3)

    labels = torch.cat([torch.ones(1234), torch.zeros(8766)]).long()
    assert accuracy(Constant(), Examples(torch.zeros(10_000, 1, 1, 1), labels)) == 0.1234


def test_accuracy_does_not_count_logits_that_are_not_finite() -> None:
    model = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    model.get_submodule("fc3").get_parameter("bias").data[0] = math.nan
    with pytest.raises(TrainingError, match="logits that are not finite"):
        accuracy(model, digits(10))


def test_steps_are_reported_as_they_happen() -> None:
    model = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    loop = Loop(model, digits(100), TrainingConfig(epochs=1, batch_size=50), seed=0)
    seen: list[int] = []
    report: Callable[[], None] = lambda: seen.append(loop.step)  # noqa: E731
    loop.epoch(on_step=report)
    assert seen == [1, 2]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", [None, "condlr", "dlrt", "tdlrt", "geolora", "vanilla"])
@pytest.mark.parametrize("step", ["exact", "amortised"])
def test_short_precision_learns_and_leaves_factors_long(method: str | None, step: str) -> None:
    torch.manual_seed(0)
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    if method is not None:
        compress(model, method=method, rank=0.5, exclude=["fc2"], init="kaiming")
    config = TrainingConfig(epochs=3, batch_size=25, precision="bf16")
    schedule = MethodConfig() if method is None else MethodConfig(name=method, step=step)
    loop = Loop(model, digits(300), config, schedule, seed=0)
    outcomes = [loop.epoch(on_step=nothing) for _ in range(3)]
    assert outcomes[-1].loss < 0.6 * outcomes[0].loss
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    for _, layer in named_factored_layers(model):
        for basis in layer.bases():
            assert torch.dist(basis.T @ basis, torch.eye(basis.shape[1])) < 1e-5


def test_an_epoch_ends_with_a_truncation() -> None:
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    compress(model, method=RobustDLRT(core_steps=50, max_rank=4), rank=4, exclude=["fc2"], init="kaiming")
    method = MethodConfig(name="robust-dlrt", core_steps=50, max_rank=4, step="amortised")
    Loop(model, digits(200), TrainingConfig(epochs=1, batch_size=25), method, seed=0).epoch(on_step=nothing)
    assert max(layer.rank for _, layer in named_factored_layers(model)) <= 4


def test_the_temperature_divides_the_logits_in_the_loss_alone() -> None:
    examples = digits(60)
    model = build("mlp", input_shape=(1, 8, 8), num_classes=10)
    with torch.no_grad():
        logits = model(unit_range(examples.images))
    config = TrainingConfig(epochs=1, batch_size=60, lr=0.1, schedule="constant", temperature=5.0)
    outcome = Loop(model, examples, config, seed=0).epoch(on_step=nothing)
    assert outcome.loss == pytest.approx(float(nn.functional.cross_entropy(logits / 5, examples.labels)), rel=1e-5)
    assert outcome.accuracy == pytest.approx(float((logits.argmax(dim=1) == examples.labels).double().mean()))
