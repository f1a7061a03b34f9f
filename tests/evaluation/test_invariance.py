"""Verdicts do not depend on batches, parts, neighbours or the order of examples."""

from typing import NamedTuple

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.evaluation import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AAFast,
    AANative,
    Curve,
    DeepFool,
    EvalConfig,
    KeyedNoise,
    MomentumPGD,
    RandomNoise,
    Square,
    Suite,
    Transfer,
    evaluate,
    prepare,
)
from robust_lowrank.evaluation import run as module
from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.result import Evaluation
from robust_lowrank.evaluation.run import Run

QUICK, ALL = 8, 40  # examples
BUDGETS = {"Linf": (0.06, 0.12), "L2": (0.4, 0.8), "L1": (1.5, 3.0)}
ATTACKS = (
    FGSM(),
    Transfer(steps=3),
    PGD(steps=3, restarts=2),
    PGD(name="later", steps=4, examples="survivors"),
    MomentumPGD(steps=3),
    RandomNoise(draws=8),
    APGD(steps=5, restarts=2),
    APGD(loss="targeted-dlr", steps=4, targets=2),
    DeepFool(steps=3),
    Curve(fmn_steps=3, steps=4),
    FAB(steps=2, targets=2, restarts=2),
    Square(queries=30),
    AAFast(steps=2, targets=2, share=0.6),
    AANative(),
)
LONG = (Square(name="long", queries=200), FAB(name="far", steps=5, targets=3), APGD(name="slow", steps=20))


class Case(NamedTuple):
    model: nn.Module
    source: nn.Module
    x: Tensor
    y: Tensor
    suite: Suite

    def evaluate(self, rows: slice | Tensor = slice(None), *, batch_size: int = 64, offset: int = 0) -> Evaluation:
        """Evaluate without the audit, which enters no verdict."""
        options = {"sources": [self.source], "batch_size": batch_size, "offset": offset, "audit": False}
        return evaluate(self.model, self.x[rows], self.y[rows], suite=self.suite, **options)


CASES = [
    ("mlp", "Linf", QUICK),
    ("cnn", "L2", QUICK),
    *(pytest.param((network, norm, ALL), marks=pytest.mark.slow) for network in ("cnn", "mlp") for norm in BUDGETS),
]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(map(str, case)))
def case(request, mlp, digits, monkeypatch) -> Case:
    network, norm, count = request.param
    parts = (APGD(steps=4), APGD(loss="targeted-dlr", steps=3, targets=2), FAB(steps=2, targets=2), Square(queries=20))
    monkeypatch.setattr(AANative, "parts", staticmethod(lambda classes, norm: parts))
    quick = count == QUICK
    suite = Suite(name="all", norm=norm, eps=BUDGETS[norm][quick:], attacks=ATTACKS if quick else ATTACKS + LONG)
    rows = slice(20, 20 + count)
    return Case(request.getfixturevalue(network), mlp, digits.x[rows], digits.y[rows], suite)


def assert_same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    order = ["attack", "eps", "example"]
    frames = [frame.drop(columns="seconds").sort_values(order, ignore_index=True) for frame in (found, expected)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_verdicts_do_not_depend_on_the_batch_size(case):
    whole = case.evaluate(batch_size=64)
    assert set(whole.verdicts["verdict"]) >= {"broken", "robust"}
    for size in (1, 7):
        other = case.evaluate(batch_size=size)
        assert_same(other.verdicts, whole.verdicts)
        assert other.record.accuracies == whole.record.accuracies
        for key, found in whole.adversarial.items():
            assert torch.equal(other.adversarial[key].examples, found.examples)
            assert torch.equal(other.adversarial[key].inputs, found.inputs)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("pool", "room"), [(1, 1), (5, 32), (64, 1)])
def test_verdicts_do_not_depend_on_what_is_attacked_together(case, monkeypatch, pool, room):
    """Neither on how many batches make a pool nor on how far trials are made ahead, if at all."""
    whole = case.evaluate(batch_size=3)
    monkeypatch.setattr(module, "POOL", pool)
    monkeypatch.setattr(FixedBatch, "room", room)
    other = case.evaluate(batch_size=3)
    assert_same(other.verdicts, whole.verdicts)
    for key, found in whole.adversarial.items():
        assert torch.equal(other.adversarial[key].inputs, found.inputs)
    assert other.record.passes > whole.record.passes


def test_parts_of_a_set_give_the_verdicts_of_the_whole(case):
    whole, cut = case.evaluate(batch_size=4), len(case.x) // 3
    parts = [case.evaluate(rows, offset=rows.start) for rows in (slice(0, cut), slice(cut, len(case.x)))]
    assert_same(pd.concat([part.verdicts for part in parts]), whole.verdicts)
    for key, found in whole.adversarial.items():
        assert torch.equal(torch.cat([part.adversarial[key].examples for part in parts]), found.examples)
        assert torch.equal(torch.cat([part.adversarial[key].inputs for part in parts]), found.inputs)


def test_what_was_prepared_in_parts_is_not_done_again(case, tmp_path, monkeypatch):
    size, options = 4, {"sources": [case.source], "store": tmp_path}
    for first in reversed(range(0, len(case.x), size)):
        rows = slice(first, first + size)
        prepare(case.model, case.x[rows], case.y[rows], EvalConfig.resolve(case.suite, batch_size=size, offset=first), **options)
    whole = case.evaluate()
    monkeypatch.setattr(Run, "find", lambda *args: pytest.fail("a unit was done again"))
    prepared = evaluate(case.model, case.x, case.y, suite=case.suite, batch_size=size, audit=False, **options)
    assert_same(prepared.verdicts, whole.verdicts)
    assert prepared.record.accuracies == whole.record.accuracies
    assert prepared.record.hashes == whole.record.hashes


def test_verdicts_do_not_depend_on_the_neighbours(case, monkeypatch):
    """Examples keep their noise by their numbers, which are therefore permuted along with them."""
    order = torch.randperm(len(case.x), generator=torch.Generator().manual_seed(1))
    whole = case.evaluate()
    monkeypatch.setattr(module, "KeyedNoise", lambda seed, purpose, examples: KeyedNoise(seed, purpose, order[examples]))
    permuted = case.evaluate(order, batch_size=len(order) // 2)
    frame = permuted.verdicts.assign(example=order.numpy()[permuted.verdicts["example"]])
    assert_same(frame, whole.verdicts)


def test_a_network_gives_an_example_the_same_bits_wherever_it_stands(case):
    fixed = FixedBatch(Target(case.model.eval(), case.x))
    x, y = case.x.repeat(9, 1, 1, 1), case.y.repeat(9)
    alone = [input_gradient(fixed, x[row : row + 1], y[row : row + 1]) for row in range(len(case.x))]
    together = input_gradient(fixed, x, y)
    for name in ("logits", "gradient"):
        expected = torch.cat([getattr(part, name) for part in alone]).repeat(9, *[1] * (getattr(together, name).dim() - 1))
        assert torch.equal(getattr(together, name), expected)
