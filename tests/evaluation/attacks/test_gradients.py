import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.gradients import cross_entropy, dlr, input_gradient, targeted_dlr


def test_values_by_hand():
    logits = torch.tensor([[4.0, 2.0, 1.0, 0.0], [1.0, 2.0, 4.0, 0.0]])
    y, target = torch.tensor([0, 1]), torch.tensor([3, 2])
    torch.testing.assert_close(cross_entropy(logits, y), logits.double().logsumexp(dim=1) - torch.tensor([4.0, 2.0]))
    torch.testing.assert_close(dlr(logits, y), torch.tensor([-2 / 3, 2 / 3], dtype=torch.float64))
    torch.testing.assert_close(targeted_dlr(logits, y, target), torch.tensor([-4 / 3.5, 2 / 3.5], dtype=torch.float64))


def test_ratios_do_not_change_with_shift_and_scale():
    logits, y, target = torch.randn(20, 6, dtype=torch.float64), torch.randint(6, (20,)), torch.randint(6, (20,))
    torch.testing.assert_close(dlr(100 * logits + 3, y), dlr(logits, y))
    torch.testing.assert_close(targeted_dlr(100 * logits + 3, y, target), targeted_dlr(logits, y, target))


@pytest.mark.parametrize("loss", ["ce", "dlr", "targeted-dlr"])
def test_input_gradients_are_those_of_finite_differences(loss):
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5)).double()
    x, y = torch.rand(6, 4, dtype=torch.float64), torch.randint(5, (6,))
    target = (y + 1) % 5
    losses = {"ce": cross_entropy, "dlr": dlr, "targeted-dlr": lambda logits, y: targeted_dlr(logits, y, target)}

    def objective(logits):
        return losses[loss](logits, y)

    found = input_gradient(model, x, y, losses[loss])
    assert found.finite.all()
    step = 1e-6
    with torch.no_grad():
        torch.testing.assert_close(found.loss, objective(model(x)))
        for feature in range(4):
            ahead, behind = x.clone(), x.clone()
            ahead[:, feature] += step
            behind[:, feature] -= step
            slope = (objective(model(ahead)) - objective(model(behind))) / (2 * step)
            torch.testing.assert_close(found.gradient[:, feature], slope, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("row", [[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 1.0], [3.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
def test_ties_give_finite_values_and_gradients(row):
    y, target = torch.tensor([0]), torch.tensor([3])
    for objective in (lambda z: dlr(z, y), lambda z: targeted_dlr(z, y, target)):
        logits = torch.tensor([row], requires_grad=True)
        value = objective(logits)
        value.sum().backward()
        assert logits.grad is not None
        assert value.isfinite().all()
        assert logits.grad.isfinite().all()
    assert dlr(torch.ones(1, 3), y).tolist() == [0.0]


def test_a_confident_float32_model_still_has_a_cross_entropy_gradient():
    logits = torch.tensor([[25.0, 0.0]], requires_grad=True)
    cross_entropy(logits, torch.tensor([0])).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.3888e-11, 1.3888e-11]]), rtol=1e-3, atol=0)


def test_ratios_of_too_few_classes_are_refused_with_what_to_take_instead():
    y = torch.tensor([0])
    with pytest.raises(UserError, match="needs 3 classes or more, this model has 2: take the loss 'ce'"):
        dlr(torch.ones(1, 2), y)
    with pytest.raises(UserError, match="needs 4 classes or more, this model has 3: take the loss 'dlr'"):
        targeted_dlr(torch.ones(1, 3), y, y)
