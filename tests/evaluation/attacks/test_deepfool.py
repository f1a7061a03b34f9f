import pytest
import torch
from torch import nn

from robust_lowrank.evaluation.attacks.deepfool import deepfool, nearest_by_deepfool
from robust_lowrank.evaluation.attacks.fab import nearest_by_fab
from robust_lowrank.evaluation.attacks.hyperplane import ORDERS
from robust_lowrank.evaluation.verdict import check
from robust_lowrank.threat import THREATS, KeyedNoise, threat

EPS = {"Linf": 0.09, "L2": 0.48, "L1": 1.3}


@pytest.mark.parametrize("norm", ORDERS)
def test_nearly_as_near_as_fab_for_a_hundredth_of_its_cost(cnn, digits, norm):
    x, y = digits.x[:48], digits.y[:48]
    quick = nearest_by_deepfool(cnn, x, y, norm)
    slow = nearest_by_fab(cnn, x, y, norm, noise=KeyedNoise(0, "fab", torch.arange(48)), steps=10, targets=3)
    assert quick.distance.isfinite().all()
    assert float(slow.distance.median()) <= float(quick.distance.median()) <= 1.15 * float(slow.distance.median())
    assert float(quick.forwards.double().mean()) < 15


def test_in_l2_the_first_misclassified_point_is_that_of_torchattacks(cnn, digits):
    torchattacks = pytest.importorskip("torchattacks")
    x, y = 0.25 + digits.x[:12] / 2, digits.y[:12]  # walls out of reach: there both are the algorithm of the paper
    path: list[torch.Tensor] = []
    with torch.no_grad():
        right = cnn(x).argmax(dim=1) == y
    x, y = x[right], y[right]
    theirs = torch.cat([torchattacks.DeepFool(cnn, steps=50, overshoot=0.02)(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
    hook = cnn.register_forward_pre_hook(lambda module, args: path.append(args[0].detach().clone()))
    for i in range(len(x)):
        path.clear()
        found = nearest_by_deepfool(cnn, x[i : i + 1], y[i : i + 1], "L2")
        unrefined = path[int(found.forwards) - 1 - 3]
        torch.testing.assert_close(unrefined[0], theirs[i], rtol=0, atol=1e-5)
        assert float(found.distance) <= float((theirs[i] - x[i]).norm())
    hook.remove()


@pytest.mark.parametrize("norm", THREATS)
def test_claims_are_what_the_check_finds(cnn, digits, norm):
    x, y = digits.x[:64], digits.y[:64]
    budget = threat(norm, EPS[norm], features=64)
    attempt = deepfool(cnn, x, y, budget)
    seen = check(cnn, x, y, attempt.inputs, budget)
    assert budget.contains(x, attempt.inputs).all()
    assert torch.equal(seen.broken | attempt.claimed, seen.broken)
    assert 0.2 < attempt.claimed.double().mean() < 0.9


def test_passes_are_counted_an_example(cnn, digits):
    sizes: list[int] = []
    hook = cnn.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    found = nearest_by_deepfool(cnn, digits.x[:32], digits.y[:32], "L2", candidates=4)
    hook.remove()
    assert sum(sizes) == int(found.forwards.sum())
    assert (found.backwards % 3 == 0).all()
    assert len(found.forwards.unique()) > 2


def test_a_model_without_slope_ends_at_once():
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([0 * x.sum(dim=1) + 1, 0 * x.sum(dim=1)], dim=1)

    found = nearest_by_deepfool(Constant(), torch.rand(3, 4), torch.tensor([0, 0, 1]), "Linf")
    assert found.distance.tolist() == [torch.inf, torch.inf, 0]
    assert found.forwards.tolist() == [2, 2, 1]
    assert not found.nonfinite.any()
