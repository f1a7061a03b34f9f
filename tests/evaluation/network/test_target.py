import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.network.target import Target


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor):
        return self.function(x)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum(), r"shape \(\)"),
        (lambda x: x[:, :0], r"shape \(1, 0\)"),
        (lambda x: x[:, :1].long(), "int64"),
        (lambda x: x[:, None], r"shape \(1, 1, 4\)"),
        (lambda x: x.argmax(dim=1, keepdim=True).expand(-1, 4), "int64"),
        (lambda x: (x, x), "a tuple"),
        (lambda x: x.expand(3, 4), r"shape \(3, 4\)"),
        (lambda x: x @ torch.ones(5, 2), r"cannot take inputs of shape \(1, 4\)"),
        (lambda x: None, "a NoneType"),
    ],
)
def test_models_that_return_no_logits_are_refused(function, message):
    with pytest.raises(UserError, match=message):
        Target(Function(function), torch.zeros(2, 4))


def test_a_model_that_changes_its_number_of_rows_is_refused():
    target = Target(Function(lambda x: x[:1]), torch.zeros(2, 4))
    with pytest.raises(UserError, match="for 2 inputs"):
        target(torch.zeros(2, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_inputs_are_cast_to_the_models_type_and_gradients_come_back_in_theirs(dtype):
    target = Target(nn.Linear(4, 3).to(dtype), torch.zeros(1, 4))
    logits, _, gradient, finite = input_gradient(target, torch.rand(5, 4), torch.zeros(5, dtype=torch.int64))
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.dtype == torch.float32
    assert finite.all()
    assert gradient.abs().sum() > 0


def test_a_model_that_writes_into_its_input_does_no_harm():
    x = torch.rand(3, 4)
    before = x.clone()
    target = Target(Function(lambda x: x.sub_(0.5)), x)
    torch.testing.assert_close(target(x), before - 0.5)
    input_gradient(target, x, torch.zeros(3, dtype=torch.int64))
    assert torch.equal(x, before)


@pytest.mark.parametrize("trainable", [True, False])
def test_outputs_that_ignore_the_input_have_gradient_zero(trainable):
    logits = nn.Parameter(torch.tensor([1.0, 2.0]), requires_grad=trainable)
    target = Target(Function(lambda x: logits.expand(len(x), -1)), torch.zeros(1, 4))
    assert torch.equal(input_gradient(target, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64)).gradient, torch.zeros(3, 4))


def test_gradients_exist_inside_no_grad_and_inference_mode():
    target = Target(nn.Linear(4, 3), torch.zeros(1, 4))
    x, y = torch.rand(2, 4), torch.zeros(2, dtype=torch.int64)
    expected = input_gradient(target, x, y).gradient
    with torch.no_grad():
        assert torch.equal(input_gradient(target, x, y).gradient, expected)
    with torch.inference_mode():
        assert torch.equal(input_gradient(target, x, y).gradient, expected)
