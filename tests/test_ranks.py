"""Ranks by number, by name and by budget."""

import pytest
import torch
from torch import nn

from robust_lowrank import DLRT, TDLRT, Budget, CondLR, GeoLoRA, Rank, UserError, compress, plan
from robust_lowrank.layers import TuckerConv2d, named_factored_layers


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 12, 3), nn.Flatten(), nn.Linear(48, 32), nn.Linear(32, 16), nn.Linear(16, 4))


def test_overrides_count_in_their_order_and_the_rest_has_the_start_rank() -> None:
    report = compress(net(), method="dlrt", rank=Rank(default=0.5, overrides={"2": 7, r"[23]": 0.25}), exclude=["4"])
    assert report.ranks == {"0": 6, "2": 7, "3": 4}


@pytest.mark.parametrize("method", ["condlr", "vanilla", "tdlrt", TDLRT(modes="all"), "geolora"], ids=str)
@pytest.mark.parametrize("share", [0.15, 0.4, 0.8])
def test_a_budget_is_kept_and_used(method: str, share: float) -> None:
    model = net()
    dense = sum(row["params_dense"] for _, row in plan(model, method=method, exclude=["4"]).iterrows() if not row["kept_dense"])
    compress(model, method=method, rank=Budget(params=share), exclude=["4"])
    layers = [layer for _, layer in named_factored_layers(model)]
    taken = sum(layer.weight_parameters() for layer in layers)
    largest_step = max(sum(layer.weight_shape) + 2 * layer.rank + 1 for layer in layers)
    if isinstance(layers[0], TuckerConv2d):
        largest_step += layers[0].C.numel()
    assert taken <= share * dense
    whole = all(layer.weight_parameters() + largest_step > layer.dense_parameters() for layer in layers)
    assert whole or taken + largest_step > share * dense
    assert all(layer.rank == 1 or layer.weight_parameters() <= layer.dense_parameters() for layer in layers)


def test_a_budget_goes_where_the_energy_is() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32))
    steep = 2.0 ** -torch.arange(32.0)
    for layer, sigma in ((model[0], steep), (model[1], torch.linspace(1.2, 0.8, 32))):
        q = torch.linalg.qr(torch.randn(32, 32)).Q
        layer.weight.data = q * sigma @ q.T
    ranks = compress(model, method="dlrt", rank=Budget(params=0.5)).ranks
    assert ranks["0"] < 6
    assert ranks["1"] > 8


def test_a_full_budget_keeps_everything_that_pays() -> None:
    model = net()
    compress(model, method="vanilla", rank=Budget(params=1.0), exclude=["4"])
    assert sum(layer.weight_parameters() for _, layer in named_factored_layers(model)) <= 4 * 9 * 12 + 48 * 32 + 32 * 16


@pytest.mark.parametrize(
    ("method", "rank", "message"),
    [
        ("dlrt", Rank(overrides={"9": 2}), "matches no layer that is factored"),
        ("dlrt", Rank(overrides={"2": 0}), "below 1"),
        ("dlrt", Rank(default=0.0), "fraction"),
        ("dlrt", Budget(params=0.01), "rank 1 everywhere takes"),
        (TDLRT(modes="all"), 0.5, "no convolution"),
    ],
)
def test_ranks_that_cannot_be_are_refused_with_the_remedy(method, rank, message: str) -> None:
    model = net()
    exclude = ["0", "4"] if message == "no convolution" else ["4"]
    with pytest.raises(UserError, match=message):
        compress(model, method=method, rank=rank, exclude=exclude)
    assert not list(named_factored_layers(model))


@pytest.mark.parametrize(
    ("channels", "filters", "rank", "expected"),
    [
        (3, 32, 0.3, (10, 3)),  # three input channels stay
        (1, 8, 0.25, (4, 1)),
        (3, 4, 0.1, (4, 3)),
        (5, 8, 0.5, (4, 4)),
        (16, 64, 0.1, (7, 4)),
        (64, 64, 0.25, (16, 16)),
        (3, 32, 2, (2, 2)),  # a number is meant
    ],
)
def test_a_fraction_leaves_a_kernel_in_tucker_form_its_few_channels(channels, filters, rank, expected) -> None:
    model = nn.Sequential(nn.Conv2d(channels, filters, 3), nn.Flatten(), nn.Linear(10, 10))
    compress(model, method="tdlrt", rank=rank, exclude=["2"])
    assert tuple(basis.shape[1] for basis in model[0].bases()) == expected


def test_a_fraction_of_a_matrix_is_a_fraction() -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Linear(8, 8))
    compress(model, method=GeoLoRA(), rank=0.1)
    assert [layer.rank for _, layer in named_factored_layers(model)] == [3, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(params=0.0), "params = 0.0"),
        (lambda: Rank(overrides={"(": 2}), "not a regular expression"),
        (lambda: GeoLoRA(tol=None, budget=8), "shares ranks out"),
        (lambda: GeoLoRA(budget=0), "no integer from 1"),
        (lambda: compress(net(), method=GeoLoRA(budget=5, min_rank=2), rank=2, exclude=["4"]), "below min_rank = 2 for each of 3"),
        (lambda: CondLR(tau=0.1, cond=1.1), "give one"),
        (lambda: CondLR(cond=0.9), "below 1"),
        (lambda: DLRT(tol=0.1, cond=0.5), "below 1"),
        (lambda: TDLRT(modes="some"), "Known: all, channels"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_cond_and_tau_say_the_same() -> None:
    assert CondLR(cond=1.5) == CondLR(tau=0.5)
    assert CondLR().cond_bound == pytest.approx(1.1)
    assert CondLR(tau=float("inf")).cond_bound == float("inf")
