import copy

import pytest
import torch
from torch import nn

from robust_lowrank.evaluation.attacks.random_noise import random_noise
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.threat import THREATS, KeyedNoise, Linf, threat

EPS = {"Linf": 0.3, "L2": 2.5, "L1": 18.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", THREATS)
def test_draws_stay_inside_and_do_not_depend_on_batch_or_order(mlp, digits, norm, dtype):
    model, x, y = copy.deepcopy(mlp).to(dtype), digits.x[:30].to(dtype), digits.y[:30]
    budget = threat(norm, EPS[norm], features=64)

    def attack(rows: torch.Tensor):
        return random_noise(model, x[rows], y[rows], budget, noise=KeyedNoise(1, "random-noise", rows), draws=20)

    every = attack(torch.arange(30))
    assert budget.contains(x, every.inputs).all()
    assert 0 < int(every.claimed.sum()) < 30
    assert (every.forwards[~every.claimed] == 20).all()
    assert not every.backwards.any()
    for rows in (*torch.arange(30).split(7), torch.randperm(30)):
        for ours, theirs in zip(attack(rows)[:5], every[:5], strict=True):
            assert torch.equal(ours, theirs[rows])


def test_finished_examples_are_drawn_for_no_more(mlp, digits):
    model, sizes = copy.deepcopy(mlp), []
    model.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    noise = KeyedNoise(0, "random-noise", torch.arange(40))
    attempt = random_noise(model, digits.x[:40], digits.y[:40], Linf(0.3), noise=noise, draws=15)
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == int(attempt.forwards.sum()) < 40 * 15


def test_the_smallest_margin_is_returned_where_nothing_breaks(mlp, digits):
    noise, budget = KeyedNoise(0, "random-noise", torch.arange(40)), Linf(0.01)
    x, y = digits.x[:40], digits.y[:40]
    with torch.no_grad():
        few, many = (margins(mlp(random_noise(mlp, x, y, budget, noise=noise, draws=n).inputs), y) for n in (3, 30))
    held = many > 0
    assert (many <= few)[held].all()
    assert (many < few)[held].any()


def test_corners_of_the_cube_are_tried():
    class Cornered(nn.Module):
        """Wrong only where every feature is as far from the clean 0.5 as it may be."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = 0.0999 - (x - 0.5).abs().flatten(1).amin(dim=1)
            return torch.stack([z, -z], dim=1)

    x, y, noise = torch.full((50, 8), 0.5), torch.zeros(50, dtype=torch.int64), KeyedNoise(0, "n", torch.arange(50))
    assert not random_noise(Cornered(), x, y, Linf(0.1), noise=noise, draws=1).claimed.any()
    found = random_noise(Cornered(), x, y, Linf(0.1), noise=noise, draws=2)
    assert found.claimed.all()
    assert 0.3 < (found.inputs > 0.5).double().mean() < 0.7


def test_logits_that_are_not_finite_are_noticed():
    class Lost(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.new_full((len(x), 2), torch.inf)

    x, y, noise = torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), KeyedNoise(0, "n", torch.arange(4))
    attempt = random_noise(Lost(), x, y, Linf(0.1), noise=noise, draws=3)
    assert attempt.nonfinite.all()
    assert not attempt.claimed.any()
