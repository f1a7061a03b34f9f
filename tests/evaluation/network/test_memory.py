"""Where memory ends, the same work is done in smaller parts."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.evaluation import APGD, FAB, FGSM, PGD, RandomNoise, Square, Suite, evaluate
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.memory import in_halves
from robust_lowrank.evaluation.network.target import Target

SUITE = Suite(
    name="s",
    eps=(0.1,),
    attacks=(FGSM(), PGD(steps=2), RandomNoise(draws=2), APGD(steps=2), FAB(steps=1, targets=2), Square(queries=5)),
)


class Kept:
    """Stands for the activations of some rows."""


class Held(torch.autograd.Function):
    """The identity, which keeps something for the backward pass."""

    @staticmethod
    def forward(ctx, x, kept):
        ctx.kept = kept
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


class Small(nn.Module):
    """Fails where more than `limit` rows are in flight: those at once, and those that are kept for a backward pass."""

    def __init__(self, model: nn.Module, limit: int) -> None:
        super().__init__()
        self.model, self.limit, self.alive, self.failures = model, limit, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        if self.alive + len(x) > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError(f"{self.alive} + {len(x)} rows")
        if torch.is_grad_enabled() and x.requires_grad:
            kept, rows = Kept(), len(x)
            self.alive += rows
            weakref.finalize(kept, self.free, rows)
            x = Held.apply(x, kept)
        return self.model(x)

    def free(self, rows: int) -> None:
        self.alive -= rows


@pytest.mark.parametrize("limit", [40, pytest.param(12, marks=pytest.mark.slow)])
def test_an_evaluation_in_little_memory_gives_the_same_verdicts(mlp, digits, limit):
    x, y = digits.x[:50], digits.y[:50]
    model = Small(mlp, limit)
    expected = evaluate(Small(mlp, 10**6), x, y, suite=SUITE, batch_size=50)
    found = evaluate(model, x, y, suite=SUITE, batch_size=50)
    assert model.failures > 0
    assert model.alive == 0
    columns = ["example", "attack", "eps", "verdict", "adversarial_prediction", "forwards", "backwards", "flags"]
    assert found.verdicts[columns].equals(expected.verdicts[columns])
    assert found.record.accuracies == expected.record.accuracies
    if limit >= 32:  # pieces of 32 rows, as without a limit: the same bits
        assert found.verdicts.drop(columns="seconds").equals(expected.verdicts.drop(columns="seconds"))


def test_one_example_that_is_too_much_is_an_error(mlp, digits):
    class Grown(Small):
        def forward(self, x: Tensor) -> Tensor:
            self.limit = 0 if x.requires_grad else self.limit
            return super().forward(x)

    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Grown(mlp, 100), digits.x[:5], digits.y[:5], suite=SUITE)


def test_other_errors_are_not_taken_for_a_lack_of_memory(mlp, digits):
    network = FixedBatch(Target(mlp, digits.x[:1]))

    def work(rows: Tensor) -> int:
        calls.append(len(rows))
        raise RuntimeError("something else")

    calls: list[int] = []
    with pytest.raises(RuntimeError, match="something else"):
        in_halves(work, torch.arange(64), network)
    assert calls == [64]


def test_parts_come_in_order_and_each_row_once(mlp, digits):
    network = FixedBatch(Target(mlp, digits.x[:1]))

    def work(rows: Tensor) -> Tensor:
        if len(rows) > 40:
            raise torch.OutOfMemoryError
        return rows

    assert torch.equal(torch.cat(in_halves(work, torch.arange(100), network)), torch.arange(100))
    assert network.piece == 32
