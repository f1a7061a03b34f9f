"""Pieces are full where trials can be made side by side."""

import math

import pytest
import torch
from torch import nn

from robust_lowrank.evaluation import PGD, Suite, evaluate
from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch, ahead
from robust_lowrank.evaluation.network.target import Target


class Counted(nn.Module):
    """Counts the rows of forward and backward passes, and the largest number of rows that wait for a backward one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows, self.waiting, self.most = model, 0, 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        logits = self.model(x)
        if logits.requires_grad:
            self.waiting += len(x)
            self.most = max(self.most, self.waiting)
            logits.register_hook(lambda gradient: self.back(len(gradient)))
        return logits

    def back(self, rows: int) -> None:
        self.rows += rows
        self.waiting -= rows


@pytest.fixture
def fixed(mlp, digits) -> FixedBatch:
    return FixedBatch(Target(mlp, digits.x))


def test_trials_fill_pieces_and_are_no_more_than_there_are(fixed):
    for rows in range(1, 200):
        for most in (1, 2, 9, 40):
            count = ahead(fixed, rows, most, ending=0.0)
            assert 1 <= count <= most

            def pieces(each: int, rows: int = rows, most: int = most) -> int:
                return most // each * math.ceil(rows * each / 32) + math.ceil(rows * (most % each) / 32)

            assert pieces(count) == min(pieces(each) for each in range(1, most + 1) if each == 1 or rows * each <= fixed.room)


def test_what_mostly_ends_at_once_is_not_tried_ahead(fixed):
    assert ahead(fixed, 300, 10, ending=0.9) == 1
    assert ahead(fixed, 1, 10, ending=1.0) <= 10
    assert ahead(fixed, 0, 10) == 1


def test_a_model_without_pieces_gets_one_trial_at_a_time(mlp):
    assert ahead(mlp, 3, 9) == 1


def test_inputs_that_take_much_memory_are_not_evaluated_many_at_a_time():
    large = torch.zeros(1, 3, 1024, 1024)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    assert FixedBatch(Target(model, large)).room == 5


def test_gradients_are_taken_of_a_few_inputs_at_a_time_and_are_the_same(mlp, digits):
    x, y = digits.x[:100], digits.y[:100]
    model = Counted(mlp)
    network = FixedBatch(Target(model, x))
    whole = input_gradient(network, x, y)
    assert (model.most, model.waiting) == (128, 0)
    network.differentiated, model.most = 50, 0
    parted = input_gradient(network, x, y)
    assert model.most == 32
    assert all(torch.equal(*pair) for pair in zip(whole, parted, strict=True))


def test_a_result_says_what_the_network_really_computed(mlp, digits, tmp_path):
    suite = Suite(name="s", eps=(0.05,), attacks=(PGD(steps=4, restarts=3),))
    model, clean = Counted(mlp), Counted(mlp)
    options = {"suite": suite, "audit": False, "batch_size": 7}
    evaluate(clean, digits.x[:20], digits.y[:20], **options, max_passes=1)
    result = evaluate(model, digits.x[:20], digits.y[:20], **options, store=tmp_path)
    asked = result.verdicts[["forwards", "backwards"]].to_numpy().sum()
    checks = 32 + 32  # of what was found, and the network's behaviour, which a store asks for
    assert asked < result.record.passes <= model.rows - clean.rows - checks + 64
    again = evaluate(model, digits.x[:20], digits.y[:20], **options, store=tmp_path)
    assert again.record.passes == pytest.approx(result.record.passes)
