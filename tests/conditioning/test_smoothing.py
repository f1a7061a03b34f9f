"""Randomised smoothing against a linear network, whose smoothed radius is the distance to its boundary."""

import math
from statistics import NormalDist

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.conditioning import smooth_certify
from robust_lowrank.errors import UserError
from robust_lowrank.records import CERTIFICATE


def plane(distances: list[float]) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network of two classes with a plane as boundary, and inputs at these distances on the side of class 0."""
    model = nn.Linear(3, 2)
    normal = torch.tensor([2.0, -1.0, 2.0]) / 3
    model.weight.data = torch.stack([normal, -normal])
    model.bias.data = torch.zeros(2)
    x = torch.tensor(distances)[:, None] * normal
    return nn.Sequential(model), x, torch.zeros(len(distances), dtype=torch.int64)


def test_radii_of_a_plane_are_just_below_the_distance() -> None:
    distances = [0.1, 0.2, 0.4]
    model, x, y = plane(distances)
    frame = smooth_certify(model, x, y, sigma=0.25, n=20_000, alpha=1e-4)
    assert tuple(frame.columns) == CERTIFICATE
    for found, distance in zip(frame["radius"], distances, strict=True):
        assert 0.9 * distance <= found <= distance
    assert not frame["abstained"].any()


def test_the_radius_never_exceeds_what_the_samples_allow() -> None:
    model, x, y = plane([50.0])
    found = float(smooth_certify(model, x, y, sigma=0.5, n=500, alpha=0.01)["radius"][0])
    assert found == pytest.approx(0.5 * NormalDist().inv_cdf(0.01 ** (1 / 500)))


def test_on_the_boundary_it_abstains_and_a_wrong_class_has_no_radius() -> None:
    model, x, y = plane([0.0, 0.5])
    frame = smooth_certify(model, x, 1 - y, sigma=0.25, n=300)
    assert frame["abstained"].tolist() == [True, False]
    assert frame["radius"].tolist() == [0.0, 0.0]
    assert frame["prediction"][1] == 0


def test_certificates_are_wrong_as_seldom_as_they_promise() -> None:
    model, x, y = plane([0.1] * 300)
    radii = smooth_certify(model, x, y, sigma=0.25, n=100, alpha=0.1)["radius"]
    wrong = int((radii > 0.1).sum())
    assert 10 <= wrong <= 45  # 30 expected, if no count lay between two limits


def test_noise_belongs_to_the_example() -> None:
    model, x, y = plane([0.1, 0.2, 0.3])
    whole = smooth_certify(model.train(), x, y, sigma=0.5, n=600)
    assert model.training
    pd.testing.assert_frame_equal(whole[:2], smooth_certify(model, x[:2], y[:2], sigma=0.5, n=600))
    other = smooth_certify(model, x, y, sigma=0.5, n=600, seed=1)
    assert (whole["margin"] != other["margin"]).any()
    same = smooth_certify(model, x[[0, 0]], y[[0, 0]], sigma=0.5, n=600)
    assert same["margin"][0] != same["margin"][1]


def test_logits_that_are_not_finite_count_for_no_class() -> None:
    class Holes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.where(x[:, 0] > 0, 1.0, math.nan), torch.zeros(len(x))], dim=1)

    frame = smooth_certify(Holes(), torch.zeros(1, 1), torch.tensor([0]), sigma=1.0, n=400)
    assert frame["abstained"].tolist() == [True]


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"sigma": math.inf}, {"n": 0}, {"n0": 0}, {"alpha": 0.5}, {"alpha": 0.0}])
def test_wrong_numbers_are_refused(wrong: dict[str, float]) -> None:
    model, x, y = plane([0.1])
    with pytest.raises(UserError, match="smoothing needs"):
        smooth_certify(model, x, y, **{"sigma": 0.25} | wrong)  # type: ignore[arg-type]
