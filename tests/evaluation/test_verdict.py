import math

import pytest
import torch
from torch import nn

from robust_lowrank.evaluation.verdict import check, margins, predictions
from robust_lowrank.threat import Linf


class Listed(nn.Module):
    """Logits that are the input itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_margins_are_negative_zero_and_positive():
    logits = torch.tensor([[1.0, 3.0, 2.0]] * 3)
    assert margins(logits, torch.tensor([0, 1, 2])).tolist() == [-2, 1, -1]
    assert margins(torch.ones(1, 4), torch.tensor([2])).tolist() == [0]


def test_a_tie_is_not_broken_though_the_prediction_is_another_class():
    x = torch.tensor([[0.4, 0.5]])
    tie = check(Listed(), x, torch.tensor([1]), torch.tensor([[0.5, 0.5]]), Linf(0.1))
    assert tie.prediction.tolist() == [0]
    assert tie.margin.tolist() == [0]
    assert not tie.broken.any()


def test_candidates_outside_the_budget_are_brought_inside_before_they_count():
    x, y = torch.tensor([[0.2, 0.8]] * 2), torch.tensor([1, 1])
    far = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert not check(Listed(), x, y, far, Linf(0.25)).broken.any()
    seen = check(Listed(), x, y, far, Linf(0.35))
    assert seen.broken.all()
    assert (seen.distance <= 0.35).all()
    assert Linf(0.35).contains(x, seen.inputs).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_candidates_that_are_not_finite_break_nothing(bad):
    x, y = torch.tensor([[0.2, 0.8]]), torch.tensor([1])
    seen = check(Listed(), x, y, torch.tensor([[bad, 0.1]]), Linf(1.0))
    assert torch.equal(seen.inputs, x)
    assert not seen.broken.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_break_nothing_and_predict_nothing(bad):
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x > 0.5, bad, x)

    seen = check(Bad(), torch.tensor([[0.9, 0.2]]), torch.tensor([1]), torch.tensor([[0.9, 0.2]]), Linf(0.1))
    assert (seen.broken.item(), seen.finite.item(), seen.prediction.item()) == (False, False, -1)
    assert predictions(torch.tensor([[0.0, bad], [0.0, 1.0]])).tolist() == [-1, 1]
