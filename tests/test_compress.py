import math

import pytest
import torch
from torch import nn

from robust_lowrank import DLRT, CondLR, Rank, UserError, compress, export, plan
from robust_lowrank.compression import count_parameters
from robust_lowrank.layers import FactoredLayer, LowRankConv, LowRankLinear, TuckerConv2d, named_factored_layers
from tests.methods.catalogue import NAMES


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 3, groups=2),
        nn.Conv2d(12, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 20, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 30),
        nn.Linear(30, 4),
    )


@pytest.mark.parametrize("method", NAMES)
def test_compress_replaces_what_it_can_and_says_why_not_the_rest(method: str) -> None:
    model = net()
    outside = {key for key in model.state_dict() if key.split(".")[0] in "18" or key in ("2.bias", "3.bias")}
    report = compress(model, method=method, rank=0.5, exclude=["8"])
    assert set(report.ranks) == {"0", "2.weight.0", "2.weight.1", "3.weight", "4", "7"}
    assert set(report.kept_dense) == {"8"} and "excluded" in report.kept_dense["8"]
    assert "grouped" in report.merged["2.weight.0"] and "reflect" in report.merged["3.weight"] and len(report.merged) == 3
    assert outside <= set(model.state_dict())
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    expected = TuckerConv2d if method == "tdlrt" else FactoredLayer
    assert isinstance(model[0], expected)
    assert report.parameters == count_parameters(model)


@pytest.mark.parametrize("method", ["vanilla", "dlrt", "tdlrt", "geolora"])
def test_full_rank_keeps_the_function(method: str) -> None:
    model, x = net().double().eval(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
    before = model(x)
    report = compress(model, method=method, rank=1.0)
    assert torch.allclose(model(x), before, atol=1e-10)
    assert max(report.relative_error.values()) < 1e-10
    assert not model[0].training


def test_condlr_starts_admissible_and_says_how_far_the_weight_moved() -> None:
    model = net()
    report = compress(model, method=CondLR(tau=0.2), rank=0.5)
    for name, layer in named_factored_layers(model):
        sigma = layer.singular_values()
        assert sigma[0] / sigma[-1] <= 1.2 * (1 + 1e-5)
        assert report.relative_error[name] > 0.01


@pytest.mark.parametrize("method", NAMES)
def test_a_gaussian_start_has_singular_values_around_one(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Linear(100, 80))
    report = compress(model, method=method, rank=0.5, init="gaussian")
    for name, layer in named_factored_layers(model):
        rms = layer.singular_values().square().mean().sqrt()
        assert 0.6 < rms < 1.4
        assert math.isnan(report.relative_error[name])
        for basis in layer.bases():
            assert torch.dist(basis.T @ basis, torch.eye(basis.shape[1])) < 1e-5


def test_a_kaiming_start_keeps_the_norm_of_kaiming_weights() -> None:
    model = nn.Sequential(nn.Linear(400, 300))
    report = compress(model, method="condlr", rank=0.2, init="kaiming")
    layer = model[0]
    assert isinstance(layer, LowRankLinear)
    assert float(layer.S.detach().norm()) == pytest.approx(math.sqrt(2 / 400 * 400 * 300), rel=0.02)
    assert math.isnan(report.relative_error["0"])


@pytest.mark.parametrize("method", ["vanilla", "condlr", "dlrt", "tdlrt", "geolora"])
@pytest.mark.parametrize(
    ("normalisation", "square"), [(nn.Identity(), 2.0), (nn.GroupNorm(4, 32, affine=False), 1 / 3), (nn.BatchNorm2d(32), 1 / 3)]
)
def test_a_kaiming_start_is_smaller_in_a_network_with_normalisations(method: str, normalisation: nn.Module, square: float) -> None:
    """Weights have the standard deviation sqrt(2 / m), with normalisations torch's own sqrt(1 / (3 m)), whatever the rank."""
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.ReLU(), normalisation, nn.Flatten(), nn.Linear(288, 200), nn.Linear(200, 100))
    compress(model, method=method, rank=0.3, init="kaiming")
    found = dict(named_factored_layers(model))
    assert len(found) == 3
    for name, layer in found.items():
        n, m = layer.weight_shape
        assert float(layer.dense_weight().detach().norm()) == pytest.approx(math.sqrt(square / m * n * m), rel=0.03), name


def test_ranks() -> None:
    model = nn.Sequential(nn.Conv2d(4, 10, 3), nn.Linear(10, 7))
    compress(model, method="dlrt", rank=3)
    assert [layer.rank for _, layer in named_factored_layers(model)] == [3, 3]
    model = nn.Sequential(nn.Conv2d(4, 10, 3), nn.Linear(10, 7))
    compress(model, method="dlrt", rank=0.25)
    assert [layer.rank for _, layer in named_factored_layers(model)] == [3, 2]
    model = nn.Sequential(nn.Conv2d(1, 10, 3))
    compress(model, method="tdlrt", rank=1.0)
    assert isinstance(model[0], TuckerConv2d)
    assert model[0].C.shape == (9, 1, 3, 3), "a Tucker rank cannot exceed the product of the others"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "below 1"),
        ({"rank": -2}, "below 1"),
        ({"rank": 5}, "at rank 4 its thin layers would hold 40 numbers, its weight holds 24"),
        ({"rank": 0.0}, "fraction"),
        ({"rank": 1.5}, "fraction"),
        ({"rank": True}, "neither"),
        ({"rank": "half"}, "neither"),
        ({"method": "condrl"}, "did you mean 'condlr'"),
        ({"exclude": ["nope"]}, "matches no layer"),
        ({"exclude": ["("]}, "not a regular expression"),
        ({"exclude": ["[0-9]+"]}, "no layer of the network can be factored"),
    ],
)
def test_wrong_use_is_refused_and_leaves_the_network_alone(options: dict, message: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError, match=message):
        compress(model, **options)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_ranks_above_a_small_layer_are_clipped_and_said() -> None:
    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 2))
    report = compress(model, method="dlrt", rank=Rank(default=20, overrides={"1": 20}))
    assert report.ranks == {"0": 20, "1": 2} and report.clipped == {"1": 2}


@pytest.mark.parametrize("rank", [0.6, 40])
def test_layers_that_would_grow_stay_dense_unless_asked(rank: float) -> None:
    model = nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 200))
    report = compress(model, method="condlr", rank=rank)
    assert set(report.ranks) == {"1"}
    assert "its thin layers would hold" in report.kept_dense["0"]
    for asked in (1.0, Rank(overrides={"0": 0.6})):
        assert "0" in compress(nn.Sequential(nn.Linear(60, 60), nn.Linear(60, 200)), rank=asked).ranks
    assert "0" in compress(nn.Sequential(nn.Linear(60, 60)), method=DLRT(tol=0.1), rank=0.9).ranks


@pytest.mark.parametrize("tau", [-0.1, math.nan])
def test_condlr_refuses_a_tau_that_is_none(tau: float) -> None:
    with pytest.raises(UserError, match="tau"):
        CondLR(tau=tau)


def test_condlr_refuses_unknown_choices() -> None:
    with pytest.raises(UserError, match="did you mean 'polar'"):
        CondLR(retraction="pola")


def test_shared_weights_stay_dense_unless_they_are_included() -> None:
    def shared() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    assert set(compress(shared(), rank=0.5).ranks) == {"2"}
    model, x = shared(), torch.randn(3, 4)
    before = model(x)
    assert set(compress(model, method="dlrt", rank=1.0, include=["0", "2"]).ranks) == {"0.weight", "2"}
    assert torch.allclose(model(x), before, atol=1e-5)
    assert model[0].parametrizations.weight[0] is model[1].parametrizations.weight[0]


def test_a_lone_layer_is_merged() -> None:
    lone, x = nn.Linear(4, 6), torch.randn(3, 4)
    before = lone(x)
    assert compress(lone, method="dlrt", rank=1.0).merged == {"weight": "it is the whole network"}
    assert torch.allclose(lone(x), before, atol=1e-5)


@pytest.mark.parametrize("method", NAMES)
def test_plan_foretells_the_parameters_and_touches_nothing(method: str) -> None:
    model = net()
    table = plan(model, method=method, rank=0.5, exclude=["8"]).set_index("layer")
    assert not any(isinstance(module, FactoredLayer) for module in model.modules())
    compress(model, method=method, rank=0.5, exclude=["8"])
    for name, layer in named_factored_layers(model):
        assert table.loc[name, "params"] == layer.weight_parameters()
        assert table.loc[name, "params_inference"] == layer.inference_parameters()
        assert table.loc[name, "params_dense"] == layer.dense_parameters()
    assert table.loc["2.weight.0", "why"].startswith("grouped") and table.loc["2.weight.0", "form"] == "merged"
    assert table.loc["0", "form"] == "chain" and table.loc["8", "form"] == "dense"


@pytest.mark.parametrize("method", [*NAMES, "usv"])
def test_a_frozen_weight_has_frozen_factors(method: str) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    model[0].weight.requires_grad_(False)
    compress(model, method=method, rank=2)
    assert not any(factor.requires_grad for factor in model[0].all_factors())
    assert all(factor.requires_grad for factor in model[2].all_factors())
    assert model[0].bias.requires_grad


def test_parameter_counts() -> None:
    model = nn.Sequential(nn.Linear(10, 8, bias=False), nn.Linear(8, 4))
    dense = count_parameters(model)
    assert (dense.total, dense.dense, dense.inference, dense.removed, dense.rank_fraction) == (116, 116, 116, 0.0, 1.0)
    compress(model, method="dlrt", rank=2, exclude=["1"])
    counted = count_parameters(model)
    assert counted.total == 2 * 18 + 4 + 36
    assert counted.dense == 116
    assert counted.inference == 2 * 18 + 36
    assert counted.removed == pytest.approx(1 - 40 / 80)
    assert counted.rank_fraction == pytest.approx(0.25)


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("to", ["dense", "factors", "auto"])
def test_export_gives_plain_torch_layers(method: str, to: str) -> None:
    model, x = net().eval(), torch.rand(2, 3, 8, 8)
    compress(model, method=method, rank=0.5)
    plain = export(model, to=to)
    assert torch.allclose(plain(x), model(x), atol=1e-5)
    assert all(type(module).__module__.startswith("torch.nn") for module in plain.modules())
    assert isinstance(model[4], FactoredLayer)
    if to == "auto":
        assert sum(p.numel() for p in plain.parameters()) == count_parameters(model).inference


def test_export_of_an_unknown_form() -> None:
    with pytest.raises(UserError, match="did you mean 'dense'"):
        export(net(), to="dens")


def test_layers_print_what_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 12, 3))
    compress(model, method="dlrt", rank=4)
    assert isinstance(model[0], LowRankConv)
    assert "12x27, core=4x4, bias=True" in repr(model)


def test_the_report_of_a_second_compression_names_the_layers_of_the_first() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16))
    compress(net, rank=0.5, include=["0"])
    shown = str(compress(net, rank=0.5, include=["1"]))
    assert [line.split()[:2] for line in shown.splitlines() if line[:1] in "01"] == [["0", "8"], ["1", "8"]]
    assert "was there" in shown
