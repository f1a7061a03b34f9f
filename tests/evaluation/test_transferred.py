"""What breaks one network, tried on others."""

import pytest
import torch
from torch import nn

from robust_lowrank.evaluation import FGSM, PGD, Square, Suite, evaluate
from robust_lowrank.evaluation.verification import transferred

SUITE = Suite(name="s", eps=(0.05, 0.1), attacks=(FGSM(), PGD(steps=5), Square(queries=40)))


@pytest.fixture(scope="module")
def result(cnn, digits):
    return evaluate(cnn, digits.x[:60], digits.y[:60], suite=SUITE)


def test_what_breaks_a_network_fools_all_of_itself(cnn, digits, result):
    entries = transferred(cnn, digits.x[:60], digits.y[:60], result.adversarial)
    assert [f"{entry.attack}/{entry.eps!r}" for entry in entries] == list(result.adversarial)
    for entry, found in zip(entries, result.adversarial.values(), strict=True):
        assert entry.tried == entry.fooled == len(found.examples)
    assert sum(entry.tried for entry in entries) > 10


def test_on_another_network_only_what_it_gets_right_is_tried(mlp, digits, result):
    x, y = digits.x[:60], digits.y[:60]
    with torch.no_grad():
        right = mlp(x).argmax(dim=1) == y
        for entry, found in zip(transferred(mlp, x, y, result.adversarial), result.adversarial.values(), strict=True):
            tried = right[found.examples]
            wrong = mlp(found.inputs).argmax(dim=1) != y[found.examples]
            assert (entry.tried, entry.fooled) == (int(tried.sum()), int((tried & wrong).sum()))


def test_a_constant_network_is_never_fooled(digits, result):
    class Knows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 10).float()

    entries = transferred(Knows(), digits.x[:60], digits.y[:60], result.adversarial)
    assert not any(entry.fooled for entry in entries)
