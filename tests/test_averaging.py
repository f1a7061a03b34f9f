"""An average of networks is that of their weights: the oracle is torch's average of dense ones, cut by an SVD where it must be."""

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import swa_utils

from robust_lowrank import (
    DLRT,
    TDLRT,
    USV,
    AveragedModel,
    CayleySGD,
    CondLR,
    GeoLoRA,
    LowRankOptimizer,
    SpectralClamp,
    UserError,
    adapt,
    compress,
    linalg,
)
from robust_lowrank.layers import FactoredLayer, named_factored_layers
from robust_lowrank.linalg import FactorisationError, Factors
from tests.methods.catalogue import with_each

EMA = {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.8)}
AVERAGES = {
    "mean": {},
    "mean of each": {"avg_fn": swa_utils.get_swa_avg_fn()},
    "ema": EMA,
    "ema of each": {"avg_fn": swa_utils.get_ema_avg_fn(0.8)},
}
FORMS = {
    "matrix": GeoLoRA(tol=None),
    "channels": TDLRT(tol=None),
    "tucker": TDLRT(tol=None, modes="all"),
    "pair": "vanilla",
    "triple": USV(),
}


def cnn() -> nn.Sequential:
    convolutions = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)).double()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 4)).double()


INPUT = {len(cnn()): (1, 8, 8), len(mlp()): (12,)}


def layers(model: nn.Module) -> list[FactoredLayer]:
    return [layer for _, layer in named_factored_layers(model)]


def dense(model: nn.Module) -> list[Tensor]:
    return [layer.dense_weight().detach().clone() for layer in layers(model)]


def sizes(model: nn.Module) -> list[torch.Size]:
    return [layer.used_factors().core.shape for layer in layers(model)]


class Oracle:
    """Torch's average of the dense weights."""

    def __init__(self, model: nn.Module, **options: Callable) -> None:
        self.average = swa_utils.AveragedModel(nn.ParameterList(dense(model)), **options)

    def update(self, model: nn.Module) -> None:
        self.average.update_parameters(nn.ParameterList(dense(model)))

    def weights(self) -> list[Tensor]:
        return [parameter.detach() for parameter in self.average.module.parameters()]


def move(model: nn.Module, *, bases: bool = True) -> None:
    """Move the factored weights at random, in their spaces of rows and columns if the bases are to rest."""
    for layer in layers(model):
        core, old = layer.factors()
        if not old:
            for factor in layer.all_factors():
                factor.data += 0.3 * torch.randn_like(factor)
            continue
        rotations = [linalg.orth(torch.randn(basis.shape[1], basis.shape[1], dtype=basis.dtype)) for basis in old]
        new = [linalg.orth(basis + 0.3 * bases * torch.randn_like(basis)) for basis in old]
        core = linalg.multi_product(core + 0.3 * torch.randn_like(core), [rotation.T for rotation in rotations])
        layer.set_factors(Factors(core, tuple(basis @ rotation for basis, rotation in zip(new, rotations, strict=True))))


def trained(model: nn.Module, optimizer: LowRankOptimizer, steps: int) -> Iterator[None]:
    """Train on noise, a step at a time."""
    for _ in range(steps):
        x = torch.randn(32, *INPUT[len(model)], dtype=torch.float64)

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model(x), x.flatten(1)[:, :4].argmax(1))
            loss.backward()
            return loss.detach()

        optimizer.step(closure)
        yield


def close(own: list[Tensor], others: list[Tensor], tolerance: float) -> bool:
    return all(float((a - b).norm()) <= tolerance * float(b.norm()) for a, b in zip(own, others, strict=True))


@pytest.mark.parametrize("options", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("method", FORMS.values(), ids=FORMS)
def test_the_average_is_exact_at_full_rank(method, options) -> None:
    model = cnn()
    compress(model, method=method, rank=1.0)
    average, oracle = AveragedModel(model, **options), Oracle(model, **options)
    for _ in range(5):
        average.update_parameters(model)
        oracle.update(model)
        assert close(dense(average.module), oracle.weights(), 1e-10)
        assert [type(layer) for layer in layers(average)] == [type(layer) for layer in layers(model)]
        assert sizes(average) == sizes(model)
        move(model)
    assert int(average.n_averaged) == 5


@pytest.mark.parametrize("method", ["geolora", "tdlrt"])
def test_the_average_is_exact_in_spaces_that_rest_whatever_their_bases(method: str) -> None:
    model = cnn()
    compress(model, method=method, rank=0.5)
    average, oracle = AveragedModel(model, **EMA), Oracle(model, **EMA)
    for _ in range(5):
        move(model, bases=False)
        average.update_parameters(model)
        oracle.update(model)
        assert close(dense(average.module), oracle.weights(), 1e-10)


@pytest.mark.parametrize("method", ["geolora", "lora"])
def test_updates_of_adapters_are_averaged(method: str) -> None:
    model, x = mlp(), torch.randn(8, 12, dtype=torch.float64)
    adapt(model, method=method, rank=4, alpha=2.0, exclude=["4"], trainable=["4.*"])
    average = AveragedModel(model)
    move(model)
    average.update_parameters(model)
    assert torch.allclose(average(x), model(x))
    before = dense(model)
    bias = model[4].bias.detach().clone()
    for layer in layers(model):
        layer.all_factors()[0].data *= 3
    model[4].bias.data += 1
    average.update_parameters(model)
    assert close(dense(average.module), [2 * weight for weight in before], 1e-6)  # torch's mean is of a weight in float32
    assert torch.allclose(average.module[4].bias, bias + 0.5)


@with_each(
    {
        "geolora": GeoLoRA(tol=0.15),
        "dlrt": DLRT(tol=0.15),
        "dlrt fixed": DLRT(),
        "condlr": CondLR(tau=math.inf),
        "tdlrt": TDLRT(tol=0.15),
        "tdlrt all": TDLRT(tol=0.15, modes="all"),
    }
)
def test_a_trained_average_is_the_best_of_the_networks_rank(method) -> None:
    model = cnn() if isinstance(method, TDLRT) else mlp()
    compress(model, method=method, rank=0.3, exclude=["0", "7"] if isinstance(method, TDLRT) else ["4"], init="kaiming")
    options = {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.95)}
    average, oracle = AveragedModel(model, **options), Oracle(model, **options)
    seen = set()
    for _ in trained(model, LowRankOptimizer(model, torch.optim.SGD, lr=0.3, momentum=0.9), 40):
        average.update_parameters(model)
        oracle.update(model)
        seen.add(tuple(sizes(model)))
    assert (len(seen) > 1) == (getattr(method, "tol", None) is not None)
    assert sizes(average) == sizes(model)
    for shown, exact, size in zip(dense(average.module), oracle.weights(), sizes(model), strict=True):
        bases = linalg.hosvd(exact, size[: len(size) if exact.ndim == 2 or method.form == "tucker" else 2]).bases
        best = linalg.multi_product(exact, [basis @ basis.T for basis in bases])
        assert (shown - best).norm() <= 1e-3 * exact.norm()
        assert (shown - exact).norm() <= 1.01 * (best - exact).norm() + 1e-3 * exact.norm()


@with_each(
    {
        "condlr": CondLR(tau=0.1),
        "geolora": GeoLoRA(tol=0.15, cond=1.5),
        "tdlrt": TDLRT(tol=0.15, cond=1.5),
        "spectral clamp": SpectralClamp(cond=1.5),
        "stiefel": CayleySGD(),
    }
)
def test_an_average_keeps_the_bound_of_its_method(method) -> None:
    model = cnn() if isinstance(method, TDLRT) else mlp()
    compress(model, method=method, rank=0.5 if method.ranked else None, exclude=["7"] if isinstance(method, TDLRT) else ["4"])
    average = AveragedModel(model, **EMA)
    for _ in trained(model, LowRankOptimizer(model, torch.optim.SGD, lr=0.3), 8):
        average.update_parameters(model)
    for _ in range(3):  # far enough for a mere average to leave the bound
        move(model)
        for layer in layers(model):
            layer.set_factors(method.project(layer.used_factors()))
        average.update_parameters(model)
    for layer in layers(average):
        sigma = layer.singular_values()[: layer.rank]
        assert sigma[0] <= (method.cond_bound + 1e-9) * sigma[-1]
    assert sizes(average) == sizes(model)


def test_whole_weights_are_brought_to_their_manifold_for_show_alone() -> None:
    model = nn.Sequential(nn.Linear(16, 24)).double()
    compress(model, method=CayleySGD())
    average, oracle, (layer,) = AveragedModel(model), Oracle(model), layers(model)
    for _ in range(4):
        average.update_parameters(model)
        oracle.update(model)
        layer.set_factors(layer.method.project(Factors(layer.core + 0.2 * torch.randn_like(layer.core), ())))
    assert close(dense(average.module), [linalg.polar(weight) for weight in oracle.weights()], 1e-10)


def test_two_free_factors_share_the_singular_values() -> None:
    model = mlp()
    compress(model, method="vanilla", rank=0.5)
    average = AveragedModel(model)
    for _ in range(3):
        average.update_parameters(model)
        move(model)
    for layer in layers(average):
        a, b = layer.all_factors()
        assert torch.allclose(a.T @ a, b.T @ b)


def test_without_factored_layers_it_is_torchs() -> None:
    for options in ({}, {"use_buffers": True}, EMA, {**EMA, "use_buffers": True}):
        model = cnn()
        average, theirs = AveragedModel(model, **options), swa_utils.AveragedModel(model, **options)
        for _ in range(3):
            model(torch.randn(4, 1, 8, 8, dtype=torch.float64))
            for parameter in model.parameters():
                parameter.data += torch.randn_like(parameter)
            average.update_parameters(model)
            theirs.update_parameters(model)
        state = theirs.state_dict()
        assert average.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in average.state_dict().items())
        average.load_state_dict(state)


def test_statistics_of_batchnorm_are_made_anew() -> None:
    model, x = cnn(), torch.randn(16, 1, 8, 8, dtype=torch.float64)
    compress(model, method="geolora", rank=0.5)
    average = AveragedModel(model)
    for _ in range(3):
        move(model)
        average.update_parameters(model)
    swa_utils.update_bn([x], average)
    assert torch.allclose(average.module[1].running_mean, average.module[0](x).mean((0, 2, 3)))


def copied(average: AveragedModel) -> AveragedModel:
    return copy.deepcopy(average)


def restored(average: AveragedModel) -> AveragedModel:
    other = AveragedModel(average.module, multi_avg_fn=average.multi_avg_fn, every=average.every)
    other.load_state_dict(average.state_dict())
    return other


@pytest.mark.parametrize("way", [copied, restored])
@pytest.mark.parametrize("method", ["geolora", "vanilla"])
@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_copy_goes_on_as_the_average_does(way: Callable, method: str, calls: int) -> None:
    model = mlp()
    compress(model, method=method, rank=0.25)
    average = AveragedModel(model, **EMA, every=2)
    for _ in range(calls):
        average.update_parameters(model)
        move(model)
    other = way(average)
    for _ in range(3):
        average.update_parameters(model)
        other.update_parameters(model)
        move(model)
    assert all(map(torch.equal, dense(average), dense(other)))
    assert int(other.n_averaged) == int(average.n_averaged)


def test_what_is_kept_beyond_the_ranks_shown_comes_back_when_ranks_grow() -> None:
    big = mlp()
    compress(big, method=GeoLoRA(tol=None), rank=8, exclude=["4"])
    small = copy.deepcopy(big)
    for layer in layers(small):
        core, (u, v) = layer.factors()
        layer.set_factors(Factors(core[:4, :4], (u[:, :4], v[:, :4])))
    average, oracle = AveragedModel(big, **EMA), Oracle(big, **EMA)
    for model in (big, small, small, big):
        average.update_parameters(model)
        oracle.update(model)
        assert sizes(average) == sizes(model)
    assert close(dense(average.module), oracle.weights(), 1e-10)


def test_every_third_call_is_an_update() -> None:
    model = mlp()
    compress(model, method="dlrt", rank=1.0)
    average, oracle = AveragedModel(model, **EMA, every=3), Oracle(model, **EMA)
    for call in range(8):
        average.update_parameters(model)
        if call in (0, 3, 6):
            oracle.update(model)
        move(model)
    assert int(average.n_averaged) == 3
    assert close(dense(average.module), oracle.weights(), 1e-10)


def test_an_open_window_and_idle_columns() -> None:
    model = mlp()
    compress(model, method=DLRT(tol=0.15), rank=0.3, exclude=["4"])
    optimizer = LowRankOptimizer(model, torch.optim.SGD, lr=0.3, step="amortised", window=3)
    average, oracle, opened, idle = AveragedModel(model, **EMA), Oracle(model, **EMA), False, False
    for _ in trained(model, optimizer, 40):
        average.update_parameters(model)
        oracle.update(model)
        opened, idle = opened or not optimizer.settled, idle or any(layer.idle for layer in layers(model))
        assert sizes(average) == sizes(model)
        assert not any(layer.idle for layer in layers(average))
    assert opened
    assert idle
    assert close(dense(average.module), oracle.weights(), 0.05)


def test_a_module_under_two_names_is_averaged_once() -> None:
    shared = nn.Linear(6, 6).double()
    model = nn.Sequential(shared, nn.Tanh(), nn.Linear(6, 6).double())
    compress(model, method="geolora", rank=1.0)
    model.append(model[0])
    average, oracle = AveragedModel(model), Oracle(model)
    for _ in range(3):
        average.update_parameters(model)
        oracle.update(model)
        move(model)
    assert average.module[3] is average.module[0]
    assert close(dense(average.module), oracle.weights(), 1e-10)


def test_a_wrapper_of_the_network_may_be_given() -> None:
    model = mlp()
    compress(model, method="geolora", rank=0.5)
    average = AveragedModel(model)
    average.update_parameters(nn.Sequential(model))
    assert close(dense(average.module), dense(model), 0.0)


def test_long_averages_in_float32_gather_no_rounding() -> None:
    model = nn.Sequential(nn.Linear(24, 16))
    compress(model, method="geolora", rank=6)
    average = AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.999))
    for _ in range(600):
        average.update_parameters(model)
    assert close(dense(average.module), dense(model), 1e-5)
    assert layers(average)[0].core.dtype == torch.float32
    assert not any(tensor.requires_grad for tensor in average.buffers())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: None, "a parameter of .* 0.weight where the average has a LowRankLinear of .* 0:"),
        (lambda model: compress(model, method="vanilla", rank=0.5), "a VanillaLinear .* where the average has a LowRankLinear"),
        (
            lambda model: (compress(model, method="geolora", rank=0.5), model.append(nn.Linear(4, 2))),
            "a parameter of .* 5.weight where the average has nothing more",
        ),
    ],
)
def test_another_network_is_refused(change: Callable, message: str) -> None:
    model, other = mlp(), mlp()
    compress(model, method="geolora", rank=0.5)
    change(other)
    average = AveragedModel(model)
    with pytest.raises(UserError, match=message):
        average.update_parameters(other)
    assert int(average.n_averaged) == 0


def test_a_weight_that_is_not_finite_is_named_and_changes_nothing() -> None:
    model = mlp()
    compress(model, method="geolora", rank=0.5)
    average = AveragedModel(model)
    for _ in range(2):
        average.update_parameters(model)
    before = copy.deepcopy(average.state_dict())
    layers(model)[1].core.data[0, 0] = math.nan
    with pytest.raises(FactorisationError, match="layer '2'"):
        average.update_parameters(model)
    assert all(torch.equal(value, before[name]) for name, value in average.state_dict().items())


@pytest.mark.parametrize("every", [0, 1.5])
def test_every_is_a_number_of_calls(every: float) -> None:
    with pytest.raises(UserError, match="no integer from 1"):
        AveragedModel(mlp(), every=every)
