import pytest
import torch

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.network.inputs import are_probabilities, check_logits


def test_probabilities_are_refused_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"for all of 4 inputs\nThe softmax at its end.*: remove it"):
        check_logits(torch.randn(4, 3).softmax(dim=1))


def test_logits_are_not_probabilities() -> None:
    rows = torch.randn(4, 3).softmax(dim=1)
    for logits in (rows.log(), 1.01 * rows, torch.cat([rows, torch.ones(1, 3)]), torch.full((1, 2), torch.nan)):
        assert not are_probabilities(logits)
        check_logits(logits)
