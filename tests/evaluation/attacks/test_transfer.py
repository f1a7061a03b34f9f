import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.pgd import pgd
from robust_lowrank.evaluation.attacks.transfer import transfer
from robust_lowrank.evaluation.verdict import check, margins
from robust_lowrank.threat import THREATS, Linf, threat

EPS = {"Linf": 0.15, "L2": 1.2, "L1": 8.0}


@pytest.mark.parametrize("norm", THREATS)
def test_candidates_of_another_model_are_tried_once_inside_the_threat_model(cnn, mlp, digits, norm):
    x, y, budget = digits.x[:60], digits.y[:60], threat(norm, EPS[norm], features=64)
    made = pgd(cnn, x, y, budget, starts=[x], steps=20, step_size=budget.eps / 4).inputs
    attempt = transfer(mlp, x, y, budget, made)
    expected = check(mlp, x, y, made, budget)
    assert torch.equal(attempt.claimed, expected.broken)
    assert torch.equal(attempt.inputs, expected.inputs)
    with torch.no_grad():
        clean = margins(mlp(x), y) < 0
    assert int(attempt.claimed.sum()) > int(clean.sum())
    assert (attempt.forwards == 1).all()
    assert not attempt.backwards.any()


@pytest.mark.parametrize("norm", THREATS)
def test_candidates_from_far_away_are_projected(mlp, digits, norm):
    x, y, budget = digits.x[:20], digits.y[:20], threat(norm, EPS[norm], features=64)
    attempt = transfer(mlp, x, y, budget, (100 * torch.randn(20, 1, 8, 8)).double())
    assert attempt.inputs.dtype == x.dtype
    assert budget.contains(x, attempt.inputs).all()


def test_candidates_and_logits_that_are_not_finite():
    class Fragile(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = torch.where(x[:, 0] > 0.55, torch.nan, x[:, 0])
            return torch.stack([z, -z], dim=1)

    x, y = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    candidates = torch.tensor([[torch.nan, 0.5], [0.6, 0.5], [0.45, 0.5]])
    attempt = transfer(Fragile(), x, y, Linf(0.1), candidates)
    assert attempt.nonfinite.tolist() == [False, True, False]
    assert not attempt.claimed.any()
    torch.testing.assert_close(attempt.inputs, torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.45, 0.5]]))


def test_candidates_of_another_shape_are_refused(mlp, digits):
    with pytest.raises(UserError, match="one for each example"):
        transfer(mlp, digits.x[:4], digits.y[:4], Linf(0.1), digits.x[:3])
