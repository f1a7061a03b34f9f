"""Optimizers that cannot train a compressed network are noticed; those that can are left in peace."""

import copy
import gc
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from robust_lowrank import LowRankOptimizer, adapt, compress
from robust_lowrank.optim import misfits


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.randn(8, 12)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("method", ["condlr", "dlrt", "geolora", "tdlrt"])
def test_a_torch_optimizer_on_factors_is_warned_of_once(method: str) -> None:
    model = network()
    compress(model, method=method, rank=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.warns(UserWarning, match=r"AdamW moves the factors .* rlr\.LowRankOptimizer\(model, torch\.optim\.AdamW"):
        step(model, optimizer)
    step(model, optimizer)


def test_an_optimizer_made_before_compress_is_warned_of() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step(model, optimizer)
    compress(model, method="condlr", rank=0.5, exclude=["2"])
    optimizer.zero_grad()
    with pytest.warns(UserWarning, match="SGD was made before compress: 1 of the 4 parameters"):
        step(model, optimizer)


@pytest.mark.parametrize("method", ["vanilla", "lora"])
def test_free_factors_may_be_trained_by_torch(method: str) -> None:
    model = network()
    if method == "lora":
        adapt(model, method=method, rank=2)
    else:
        compress(model, method=method, rank=0.5)
    step(model, torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1))


def test_an_adapter_of_orthonormal_bases_is_no_matter_for_torch() -> None:
    model = network()
    adapt(model, method="geolora", rank=2)
    with pytest.warns(UserWarning, match="SGD moves the factors"):
        step(model, torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1))


@pytest.mark.parametrize("method", ["condlr", "dlrt", "geolora"])
@pytest.mark.parametrize("kind", ["exact", "amortised"])
def test_the_optimizer_of_this_package_and_its_copies_are_left_in_peace(method: str, kind: str) -> None:
    model = network()
    compress(model, method=method, rank=0.5)
    optimizer = LowRankOptimizer(model, torch.optim.SGD, lr=0.1, step=kind, **({"window": 5} if kind == "amortised" else {}))
    step(model, optimizer)
    both = copy.deepcopy((model, optimizer))
    step(*both)
    other = network()
    step(other, torch.optim.SGD(other.parameters(), lr=0.1))


def test_networks_and_optimizers_are_forgotten() -> None:
    model = network()
    compress(model, method="condlr", rank=0.5)
    factors = {id(each) for each in model.modules()}
    assert factors & set(map(id, misfits._layers))
    del model
    gc.collect()
    assert not factors & set(map(id, misfits._layers))


@pytest.mark.parametrize("clearing", ["by the network", "to zero"])
def test_gradients_from_before_compress_do_not_hide_it(clearing: str) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step(model, optimizer)
    compress(model, method="condlr", rank=0.5, exclude=["2"])
    model.zero_grad()
    optimizer.zero_grad(set_to_none=clearing == "by the network")
    model(torch.randn(8, 12)).square().mean().backward()
    with pytest.warns(UserWarning, match="SGD was made before compress: 1 of the 4 parameters"):
        optimizer.step()


def test_a_head_may_be_trained_beside_frozen_factors() -> None:
    model = network()
    compress(model, method="condlr", rank=0.5, exclude=["2"])
    model[0].requires_grad_(False)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1))


def test_a_core_alone_may_be_trained_by_torch() -> None:
    model = network()
    compress(model, method="condlr", rank=0.5, exclude=["2"])
    step(model, torch.optim.SGD([model[0].core, *model[2].parameters()], lr=0.1))


def test_what_goes_around_the_optimizer_of_this_package_is_left_in_peace() -> None:
    model = network()
    compress(model, method="condlr", rank=0.5)
    base = LowRankOptimizer(model, torch.optim.SGD, lr=0.1)

    class Around(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__(base.param_groups, {})

        def step(self, closure=None):
            return base.step(closure)

        __eq__ = object.__eq__
        __hash__ = None

    step(model, Around())


def test_conversions_that_swap_parameters_go_on() -> None:
    model = network()
    compress(model, method="condlr", rank=0.5)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        assert next(model.double().parameters()).dtype == torch.float64
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
