import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from robust_lowrank import adapt, linalg
from robust_lowrank.compression import compress
from robust_lowrank.conditioning import Monitor, certificate_product, spectra
from robust_lowrank.errors import UserError
from robust_lowrank.layers import FactoredLayer
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import METHODS, CondLR
from robust_lowrank.models import build
from robust_lowrank.records import SPECTRA


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    return build("cnn", input_shape=(1, 8, 8), num_classes=10).to(dtype)


def weight_of(layer: nn.Module) -> np.ndarray:
    weight = layer.dense_weight() if isinstance(layer, FactoredLayer) else layer.get_parameter("weight")
    return weight.detach().flatten(1).numpy()


def row(frame: pd.DataFrame, layer: str) -> pd.Series:
    return frame[frame["layer"] == layer].iloc[0]


@pytest.mark.parametrize("method", ["dense", *METHODS])
def test_T10_spectra_are_those_of_the_merged_weights(method: str) -> None:
    model = network()
    if method != "dense":
        compress(model, method=method, rank=0.3 if METHODS[method].ranked else None, exclude=["fc2"])
    frame = spectra(model)
    assert frame["layer"].tolist() == ["conv1", "conv2", "fc1", "fc2"]
    for _, found in frame.iterrows():
        matrix = weight_of(model.get_submodule(found["layer"]))
        sigma = np.linalg.svd(matrix, compute_uv=False)
        rank = found["rank"]
        assert np.allclose(found["singular_values"], sigma[:rank], rtol=1e-8, atol=0)
        assert np.all(sigma[rank:] < 1e-12 * sigma[0])
        assert found["cond"] == pytest.approx(sigma[0] / sigma[rank - 1], rel=1e-8)
        assert found["stable_rank"] == pytest.approx(np.linalg.norm(matrix) ** 2 / np.linalg.norm(matrix, 2) ** 2)
        assert (found["rows"], found["columns"]) == matrix.shape
        assert found["params_dense"] == matrix.size
        assert found["factored"] == (method != "dense" and found["layer"] != "fc2")


def test_T10_certificate_of_constrained_layers_is_bounded() -> None:
    model = network()
    compress(model, method=CondLR(tau=0.1), rank=0.3, exclude=["fc2"])
    frame = spectra(model)
    assert certificate_product(frame[frame["factored"]]) <= 1.1**3 * (1 + 1e-8)


def test_certificate_is_the_product_over_the_layers() -> None:
    model = network()
    conds = [np.linalg.cond(weight_of(model.get_submodule(name))) for name in ("conv1", "conv2", "fc1", "fc2")]
    assert certificate_product(spectra(model)) == pytest.approx(np.prod(conds))


def test_columns_are_those_of_the_records() -> None:
    assert ("epoch", *spectra(network()).columns) == SPECTRA


def test_orthonormality_of_exact_and_disturbed_bases() -> None:
    model = network()
    compress(model, method="condlr", rank=0.3, exclude=["fc2"])
    assert spectra(model).query("factored")["orthonormality"].max() < 1e-12
    layer = model.get_submodule("fc1")
    assert isinstance(layer, FactoredLayer)
    with torch.no_grad():
        layer.bases()[0][:, 0] *= 2
    assert row(spectra(model), "fc1")["orthonormality"] == pytest.approx(3.0)
    assert math.isnan(row(spectra(model), "fc2")["orthonormality"])


def test_parameters_of_factored_layers() -> None:
    model = network()
    compress(model, method="condlr", rank=8, exclude=["conv.*", "fc2"])
    found = row(spectra(model), "fc1")
    assert found["params"] == 8 * (128 + 512) + 64
    assert found["params_dense"] == 128 * 512


def test_a_singular_weight_has_an_infinite_condition_number() -> None:
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    assert spectra(nn.Sequential(layer))["cond"].tolist() == [math.inf]


def test_half_precision_weights_are_decomposed_in_double() -> None:
    model = nn.Sequential(nn.Linear(6, 4)).to(torch.bfloat16)
    expected = np.linalg.svd(model[0].weight.detach().double().numpy(), compute_uv=False)
    assert np.allclose(spectra(model)["singular_values"].iloc[0], expected, rtol=1e-12)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    with pytest.raises(UserError, match="layer '0' holds NaN"):
        spectra(model)


def test_a_network_without_weights_gives_an_empty_table() -> None:
    frame = spectra(nn.ReLU())
    assert frame.empty
    assert certificate_product(frame) == 1


@pytest.mark.parametrize("method", ["condlr", "dlrt", "tdlrt", "vanilla"])
def test_the_spectrum_of_averaged_cast_and_edited_factors_is_that_of_the_merged_weight(method: str, precision) -> None:
    """Whatever is done to factors, the network applies their product."""
    model, other = network(precision.dtype), network(precision.dtype)
    for each in (model, other):
        compress(each, method=method, rank=0.3, exclude=["fc2"])
    with torch.no_grad():
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            one.lerp_(two, 0.4)
    for _, found in spectra(model).iterrows():
        weight = weight_of(model.double().get_submodule(found["layer"]))
        expected = np.linalg.svd(weight, compute_uv=False)[: found["rank"]]
        np.testing.assert_allclose(found["singular_values"], expected, rtol=1e-9, atol=1e-12)
        if found["factored"] and method != "vanilla":
            assert found["orthonormality"] > 0.1


def test_report_and_monitor_read_a_planted_condition_number_alike() -> None:
    """Bases in float32 are orthonormal to 1e-7; a small singular value is read as precisely as a large one."""
    model = nn.Sequential(nn.Linear(40, 30))
    compress(model, method="condlr", rank=6)
    layer = model[0]
    assert isinstance(layer, FactoredLayer)
    sigma = torch.logspace(0, -8, 6)
    layer.set_factors(Factors(torch.diag(sigma), tuple(linalg.orth(torch.randn(n, 6)) for n in (30, 40))))
    frame, monitor = spectra(model), Monitor(model)
    (recorded,) = monitor.record()
    assert frame["cond"].iloc[0] == pytest.approx(1e8, rel=1e-5)
    assert recorded["cond"] == pytest.approx(frame["cond"].iloc[0], rel=1e-12)


def test_an_adapter_shows_its_merged_weight_beside_base_and_update() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    adapt(model, method="geolora", rank=2, exclude=["2"])
    with torch.no_grad():
        for parameter in model[0].update.parameters():
            parameter.add_(torch.randn_like(parameter))
    frame = spectra(model)
    assert frame["layer"].tolist() == ["0", "0.base", "0.update", "2"]
    merged = np.linalg.svd(model[0].dense_layer().weight.detach().numpy(), compute_uv=False)
    np.testing.assert_allclose(row(frame, "0")["singular_values"], merged, rtol=1e-9)
    assert certificate_product(frame) == pytest.approx(row(frame, "0")["cond"] * row(frame, "2")["cond"])
    monitor = Monitor(model, every=1, dense_every=1)
    assert {each["layer"]: each["cond"] for each in monitor.record()}["0"] == pytest.approx(row(frame, "0")["cond"])
