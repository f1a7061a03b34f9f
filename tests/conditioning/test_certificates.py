"""Certified radii: exact for linear networks, zero where nothing is proved, and never too large."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.conditioning import certified_curve, certify, lipschitz
from robust_lowrank.errors import UserError
from robust_lowrank.models import build
from robust_lowrank.records import CERTIFICATE, CURVE
from robust_lowrank.statistics import clopper_pearson


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5)).double()
    x = torch.rand(40, 1, 4, 4, dtype=torch.float64)
    return model, x, model(x).argmax(dim=1)


def test_radii_of_a_linear_network_are_the_distances_to_its_boundaries() -> None:
    model, x, y = linear()
    frame = certify(model, x, y)
    assert tuple(frame.columns) == CERTIFICATE
    weight, logits = model[1].weight.detach(), model(x).detach()
    for row in frame.itertuples():
        gaps = logits[row.example, row.label] - logits[row.example]
        distances = gaps / (weight[row.label] - weight).norm(dim=1)
        nearest = float(distances[distances.isfinite()].min())
        assert nearest * (1 - 1e-6) <= row.radius <= nearest
        other = int(distances.nan_to_num(nan=math.inf).argmin())
        direction = weight[other] - weight[row.label]
        crossed = x[row.example].flatten() + 1.0001 * nearest * direction / direction.norm()
        assert int(model(crossed.reshape(1, 1, 4, 4)).argmax()) != row.label


def test_a_wrong_example_has_radius_zero_and_a_negative_margin() -> None:
    model, x, y = linear()
    frame = certify(model, x, (y + 1) % 5)
    assert (frame["radius"] == 0).all()
    assert (frame["margin"] < 0).all()
    assert (frame["prediction"] == y.tolist()).all()


def test_without_a_bound_nothing_is_certified() -> None:
    model = build("vit", input_shape=(3, 8, 8), num_classes=4)
    x = torch.rand(3, 3, 8, 8)
    assert (certify(model, x, model.eval()(x).argmax(dim=1))["radius"] == 0).all()


def test_the_last_layers_rows_give_more_than_the_product_of_all_norms() -> None:
    torch.manual_seed(3)
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    x = torch.rand(20, 1, 8, 8)
    y = model(x).argmax(dim=1)
    bound = lipschitz(model, (1, 8, 8))
    frame = certify(model, x, y, bound=bound)
    assert (frame["radius"] > frame["margin"] / (math.sqrt(2) * bound.bound)).all()
    hidden = nn.Sequential(model, nn.LeakyReLU(1.0))  # the same network, its last layer not the last call
    assert frame["margin"].tolist() == pytest.approx(certify(hidden, x, y)["margin"].tolist())
    assert certify(hidden, x, y)["radius"].tolist() == pytest.approx(
        (frame["margin"] / (math.sqrt(2) * bound.bound)).tolist(), rel=1e-6
    )


def test_the_batch_and_the_networks_mode_do_not_matter() -> None:
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    x, y = torch.rand(7, 1, 8, 8), torch.randint(10, (7,))
    whole = certify(model.train(), x, y)
    assert model.training
    pd.testing.assert_frame_equal(whole, certify(model.eval(), x, y, batch_size=2), rtol=1e-9)


def test_classes_with_one_row_are_apart_by_their_biases_alone() -> None:
    model = nn.Linear(2, 2).double()
    model.weight.data.fill_(1.0)
    model.bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    network, x = nn.Sequential(model), torch.rand(1, 2)
    assert certify(network, x, torch.tensor([0]))["radius"].tolist() == [math.inf]
    assert certify(network, x, torch.tensor([1]))["radius"].tolist() == [0.0]
    model.weight.data[1, 1] += 1e-15  # rows that differ by less than can be squared are not one
    assert math.isfinite(certify(network, x, torch.tensor([0]))["radius"][0])


def test_bad_logits_and_labels_are_refused() -> None:
    model, x, y = linear()
    with pytest.raises(UserError, match="label an example"):
        certify(model, x, y[:3])
    x[0] = math.nan
    with pytest.raises(UserError, match="not finite"):
        certify(model, x, y)


def test_the_curve_counts_right_examples_with_their_intervals() -> None:
    table = pd.DataFrame(
        [(0, 1, 1, 0.5, 0.4, False), (1, 1, 2, -0.1, 0.0, False), (2, 0, 0, 0.1, 0.0, True), (3, 0, 0, 0.3, 0.2, False)],
        columns=pd.Index(CERTIFICATE),
    )
    curve = certified_curve(table, [0, 0.2, 0.3, 1])
    assert tuple(curve.columns) == CURVE
    assert curve["certified"].tolist() == [2, 2, 1, 0]
    assert curve.iloc[2][["value", "low", "high"]].tolist() == pytest.approx(list(clopper_pearson(1, 4)))
    with pytest.raises(UserError, match="from 0"):
        certified_curve(table, [-1.0])
