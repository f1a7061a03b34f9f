"""What is easy to get wrong is refused, or does what it says."""

import copy
import importlib
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import robust_lowrank as rlr
from robust_lowrank.errors import UserError
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import METHODS

ADAPTIVE = ("dlrt", "tdlrt", "geolora", "rgd", "robust-dlrt")


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(32, 12), torch.randint(0, 3, (32,))


def trained(model: nn.Module, opt: torch.optim.Optimizer, steps: int = 20) -> list[float]:
    x, y = batch()
    x = x.to(next(model.parameters()).dtype)

    def closure():
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    return [float(opt.step(closure)) for _ in range(steps)]


@pytest.mark.parametrize("frozen", ["both", "one"])
@pytest.mark.parametrize("step", ["exact", "amortised"])
@pytest.mark.parametrize("method", [*ADAPTIVE, "condlr"])
def test_frozen_bases_stay_and_the_core_descends(method: str, step: str, frozen: str) -> None:
    model = net().double()
    rlr.compress(model, method=method, rank=4, exclude=["4"], init="kaiming")
    layer = model[0]
    kept = [basis.detach().clone() for basis in layer.bases()]
    for basis in layer.bases()[: 2 if frozen == "both" else 1]:
        basis.requires_grad_(False)
    opt = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.05, step=step)
    losses = trained(model, opt)
    assert losses[-1] < losses[0]
    assert not layer.bases()[0].requires_grad
    if method != "condlr" or frozen == "both":
        moved = [basis.detach() @ basis.detach().T - old @ old.T for basis, old in zip(layer.bases(), kept, strict=True)]
        assert max(float(each.norm()) for each in moved) < 1e-10


def test_layers_that_are_frozen_stay_so() -> None:
    model = net()
    model[0].requires_grad_(False)
    rlr.compress(model, method="condlr", rank=1.0, exclude=["4"])
    before = model[0].dense_weight().clone()
    trained(model, rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.1))
    assert not any(parameter.requires_grad for parameter in model[0].parameters())
    assert torch.equal(model[0].dense_weight(), before)
    assert model[2].core.requires_grad


def test_an_optimizer_made_before_compression_is_refused() -> None:
    model = net()
    opt = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.1)
    rlr.compress(model, method="condlr", rank=4, exclude=["4"])
    with pytest.raises(UserError, match="compress the network before making the optimizer"):
        trained(model, opt, 1)


@pytest.mark.parametrize("method", ["condlr", "dlrt"])
def test_a_step_without_gradients_is_refused(method: str) -> None:
    model = net()
    rlr.compress(model, method=method, rank=4, exclude=["4"])
    opt = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.1)
    with pytest.raises(UserError, match="no parameter has a gradient"):
        opt.step(lambda: torch.tensor(1.0))


def test_an_interrupted_step_leaves_ranks_as_they_were() -> None:
    model = net()
    rlr.compress(model, method="dlrt", rank=3, exclude=["4"], init="kaiming")
    opt = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.1)
    x, y = batch()
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("the second evaluation")
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        model[0].core.grad *= 0.5  # as clipping does, so that nothing is recalled
        return loss

    with pytest.raises(MemoryError):
        opt.step(closure)
    assert {layer.rank for _, layer in named_factored_layers(model)} == {3}
    assert all(basis.requires_grad for _, layer in named_factored_layers(model) for basis in layer.bases())
    trained(model, opt, 3)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_weight_that_cannot_be_factored_leaves_the_network_as_it_was(value: float) -> None:
    model = net()
    nn.init.constant_(model[2].weight, value)
    with pytest.raises(UserError, match=r"layer '2' cannot be factored.*Exclude it"):
        rlr.compress(model, method="condlr", rank=2)
    assert [type(layer) for layer in model if not isinstance(layer, nn.Tanh)] == [nn.Linear] * 3


@pytest.mark.parametrize("method", METHODS)
def test_a_network_in_bf16_keeps_its_factors_in_float32(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 3)).bfloat16()
    options = {} if method in ("projected-sgd", "cayley-sgd", "landing", "spectral-clamp") else {"rank": 2}
    rlr.compress(model, method=method, exclude=["3"], init="kaiming", **options)
    opt = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.01)
    x, y = torch.randn(8, 2, 4, 4).bfloat16(), torch.randint(0, 3, (8,))

    def closure():
        opt.zero_grad()
        loss = nn.functional.cross_entropy(model(x).float(), y)
        loss.backward()
        return loss.detach()

    losses = [float(opt.step(closure)) for _ in range(10)]
    assert losses[-1] < losses[0]
    assert all(layer.core.dtype == torch.float32 for _, layer in named_factored_layers(model) if hasattr(layer, "core"))


def test_what_cannot_be_factored_is_named() -> None:
    class Mine(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.Sequential(
        Mine(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm((2, 4), bias=False), nn.Embedding(5, 4), nn.Linear(4, 4)
    )
    model[1].register_forward_hook(lambda *_: None)
    model[2].weight.register_hook(lambda grad: grad * torch.eye(4))
    report = rlr.compress(model, method="condlr", rank=2)
    assert "Mine has a forward of its own" in report.merged["0.weight"] and "hooks" in report.merged["1.weight"]
    kept = report.kept_dense
    assert set(kept) == {"2", "3", "4"}
    assert "its gradient has hooks" in kept["2"] and "elementwise" in kept["3"] and "table of vectors: include it" in kept["4"]


def test_adafactor_follows_a_rank_that_falls() -> None:
    model = net()
    rlr.compress(model, method=rlr.GeoLoRA(tol=0.5), rank=8, exclude=["4"], init="kaiming")
    losses = trained(model, rlr.LowRankOptimizer(model, torch.optim.Adafactor, lr=0.05, moments="elementwise"), 30)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rlr.compress(net(), init="kaimin"), "did you mean 'kaiming'"),
        (lambda: rlr.compress(net(), init=None), "Known"),
        (lambda: rlr.compress(net(), method=rlr.CondLR), r"method = CondLR is neither a name .* nor an object"),
        (lambda: rlr.compress(net(), method=3), "method = 3 is neither a name"),
        (lambda: rlr.DLRT(max_rank=8), "with tol = None it stays"),
        (lambda: rlr.RGD(tol=0.1), "take geolora"),
        (lambda: rlr.GeoLoRA(min_rank=2.5), "not an integer"),
        (lambda: rlr.GeoLoRA(budget=20.5), "no integer"),
        (lambda: rlr.RobustDLRT(core_steps=1.5), "no integer"),
        (lambda: rlr.AdaLoRA(budget=10, steps=100, penalty=-1.0), "penalty"),
        (lambda: rlr.Penalty(milestones=(1,), decay=(-1.0,)), "decay"),
        (lambda: rlr.LowRankOptimizer(net(), torch.optim.SGD, lr=0.1, step="amortised", window=1.5), "not a number of steps"),
        (lambda: rlr.LowRankOptimizer(net(), torch.optim.SGD, lr=0.1, step="amortised", window=-1), "not a number of steps"),
        (lambda: rlr.LowRankOptimizer(net(), torch.optim.SGD, lr=0.1, maximize=True), "maximize"),
        (lambda: rlr.LowRankOptimizer(net(), torch.optim.RMSprop, lr=0.1, centered=True), "centered"),
        (lambda: rlr.LowRankOptimizer(net().parameters(), torch.optim.SGD, lr=0.1), "takes the network and a class"),
        (lambda: rlr.LowRankOptimizer(net(), "sgd", lr=0.1), "takes the network and a class"),
        (
            lambda: rlr.LowRankOptimizer(net(), torch.optim.SGD, lr=0.1).load_state_dict({"state": {}, "param_groups": []}),
            "no window",
        ),
    ],
)
def test_misuse_is_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("step", ["exact", "amortised"])
def test_a_copy_of_network_and_optimizer_trains_like_the_original(step: str) -> None:
    model = net()
    rlr.compress(model, method=rlr.DLRT(tol=0.1), rank=4, exclude=["4"], init="kaiming")
    opt = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.1, momentum=0.9, step=step)
    torch.manual_seed(1)
    trained(model, opt, 4)
    other = copy.deepcopy(opt)
    assert other.model is not model
    losses = []
    for each in (opt, other):
        torch.manual_seed(2)
        losses.append(trained(each.model, each, 6))
    assert losses[0] == losses[1]


def test_compressing_twice_says_so() -> None:
    model = net()
    rlr.compress(model, method="condlr", rank=2)
    with pytest.raises(UserError, match="factored already"):
        rlr.compress(model, method="condlr", rank=2)


def test_one_pattern_may_be_a_string() -> None:
    assert set(rlr.compress(net(), rank=2, exclude="24|4").kept_dense) == {"4"}


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_landing_stays_where_no_step_is_good(bad: float) -> None:
    from robust_lowrank.methods.stiefel import halve_until_safe

    x = torch.eye(3, 5, dtype=torch.float64)
    assert torch.equal(halve_until_safe(x, torch.full_like(x, bad)), x)
    assert torch.isfinite(halve_until_safe(x, torch.full_like(x, 1e30))).all()


def test_methods_are_those_that_are_tested() -> None:
    assert set(ADAPTIVE) <= set(METHODS)
    assert issubclass(FactorisationError, Exception)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rlr.compress(net(), start="kaiming"), TypeError, "start is called init now: give init='kaiming'"),
        (lambda: rlr.LowRankOptimizer(net(), torch.optim.SGD, lr=0.1, schedule="exact"), TypeError, "schedule is called step now"),
        (lambda: rlr.starts, ImportError, "has moved: import robust_lowrank.initialisation"),
        (lambda: rlr.nothing, AttributeError, "has no attribute 'nothing'"),
    ],
)
def test_names_that_have_changed_say_the_new_one(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_functions_hide_no_module_and_the_package_names_its_rooms_and_version() -> None:
    assert importlib.import_module("robust_lowrank.compression").compress is rlr.compress
    assert rlr.data.DATASETS and rlr.models.MODELS and rlr.__version__
