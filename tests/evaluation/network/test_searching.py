"""Attacks search on the fast form of a network, and what they find is judged on the network itself."""

import copy

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import TDLRT, CondLR, compress
from robust_lowrank.evaluation import APGD, FAB, FGSM, PGD, AAFast, Curve, Square, Suite, evaluate
from robust_lowrank.evaluation import run as module
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.searching import network_to_search
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.threat import frozen_eval

ATTACKS = {
    "each": (FGSM(), PGD(steps=6, restarts=2), APGD(steps=10), FAB(steps=4, targets=2), Square(queries=60)),
    "ensembles": (AAFast(steps=5, targets=2), Curve(fmn_steps=4, steps=6)),
}


@pytest.fixture(scope="module")
def trained(digits) -> nn.Module:
    """A network with normalisations that has learnt the digits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(4):
        for rows in torch.randperm(len(digits.train_x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(digits.train_x[rows]), digits.train_y[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(params=["dense", "condlr", "tdlrt"])
def model(request, trained) -> nn.Module:
    method = {"dense": None, "condlr": CondLR(tau=5.0), "tdlrt": TDLRT(tol=None)}[request.param]
    net = copy.deepcopy(trained)
    if method is not None:
        compress(net, method=method, rank=0.6)
    return net.eval()


@pytest.fixture
def examples(digits) -> tuple[Tensor, Tensor]:
    return digits.x[:24], digits.y[:24]


def columns(found: pd.DataFrame) -> pd.DataFrame:
    return found[["example", "attack", "eps", "verdict", "adversarial_prediction", "forwards", "backwards", "flags"]]


def test_the_form_has_no_normalisation_and_answers_the_same(model, examples):
    with frozen_eval(model):
        network = FixedBatch(Target(model, examples[0]))
        searched = network_to_search(network, examples[0])
        assert searched is not network
        assert not any(isinstance(each, nn.BatchNorm2d) for each in searched.modules())
        assert all(type(each).__module__.startswith("torch") for each in searched.target.model.modules())
        torch.testing.assert_close(searched(examples[0]), network(examples[0]), rtol=1e-4, atol=1e-4)
        row = searched(examples[0])[17]
        for beside in (examples[0][17:18], examples[0][:18], examples[0][10:]):
            answers = searched(beside)
            assert any(torch.equal(answer, row) for answer in answers)  # to the last bit, wherever it stands


@pytest.mark.parametrize("kind", ["each", pytest.param("ensembles", marks=pytest.mark.slow)])
def test_verdicts_are_those_of_the_network(model, examples, kind):
    suite = Suite(name="mixed", norm="Linf", eps=(0.05, 0.12), attacks=ATTACKS[kind])
    x, y = examples[0].double(), examples[1]
    fast, plain = (evaluate(model.double(), x, y, suite=suite, audit=False, fold=fold) for fold in (True, False))
    pd.testing.assert_frame_equal(columns(fast.verdicts), columns(plain.verdicts))
    for name in ("margin", "distance"):
        ours, theirs = (torch.tensor(each.verdicts[name].to_numpy()) for each in (fast, plain))
        assert torch.equal(ours.isnan(), theirs.isnan())
        apart = (ours - theirs).abs()[~ours.isnan()]
        assert (apart > 1e-6).double().mean() < 0.02  # where the sign of a gradient is one of rounding, another input is found
        assert apart.max() < 0.01
    assert {"broken", "robust"} <= set(fast.verdicts.verdict)
    assert not fast.verdicts["flags"].str.contains("searched-again").any()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_verdicts_do_not_depend_on_the_batch(model, examples, batch_size):
    suite = Suite(name="few", norm="Linf", eps=(0.08,), attacks=(PGD(steps=20), APGD(steps=20), Square(queries=40)))
    whole = evaluate(model, *examples, suite=suite, audit=False)
    other = evaluate(model, *examples, suite=suite, audit=False, batch_size=batch_size)
    timeless = [name for name in whole.verdicts.columns if name != "seconds"]
    pd.testing.assert_frame_equal(whole.verdicts[timeless], other.verdicts[timeless])


def test_what_the_network_does_not_confirm_is_searched_again_on_it(model, examples, monkeypatch):
    suite = Suite(name="few", norm="Linf", eps=(0.12,), attacks=(PGD(steps=5), APGD(steps=5), Square(queries=40)))
    plain = evaluate(model, *examples, suite=suite, audit=False, fold=False)
    liar = nn.Sequential(copy.deepcopy(model), Shifted())
    monkeypatch.setattr(module, "network_to_search", lambda network, x: FixedBatch(Target(liar, x), network.meter))
    found = evaluate(model, *examples, suite=suite, audit=False)
    settled = ["example", "attack", "eps", "verdict", "adversarial_prediction", "margin"]
    pd.testing.assert_frame_equal(found.verdicts[settled], plain.verdicts[settled])
    again = found.verdicts["flags"].str.contains("searched-again")
    assert again[found.verdicts.verdict == "robust"].all()
    assert (found.verdicts[again].forwards > plain.verdicts[again].forwards).all()
    assert again.sum() > len(examples[1])
    assert found.record.passes > plain.record.passes
    assert found.adversarial.keys() == plain.adversarial.keys()
    for name, kept in found.adversarial.items():
        torch.testing.assert_close(tuple(kept), tuple(plain.adversarial[name]), rtol=0, atol=0)


def test_a_form_that_only_looks_robust_is_found_out(model, examples, monkeypatch):
    suite = Suite(name="few", norm="Linf", eps=(0.12,), attacks=(PGD(steps=5), APGD(steps=5)))
    plain = evaluate(model, *examples, suite=suite, audit=False, fold=False)
    sure = nn.Sequential(copy.deepcopy(model), Sure())
    monkeypatch.setattr(module, "network_to_search", lambda network, x: FixedBatch(Target(sure, x), network.meter))
    found = evaluate(model, *examples, suite=suite, audit=False)
    assert (found.verdicts.verdict == plain.verdicts.verdict).all()


class Copied(nn.Module):
    """Its copy has gradients at some points alone: it defends itself against being searched in the place of the network."""

    def __init__(self, network: nn.Module, points: Tensor, *, masked: bool = False) -> None:
        super().__init__()
        self.network, self.points, self.masked = network, points, masked

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        if not self.masked:
            return logits
        known = ((x[:, None] - self.points).flatten(2).abs().amax(2).amin(1) < 1e-7)[:, None]
        return torch.where(known, logits, logits.detach() + 0 * x.flatten(1).sum(1, keepdim=True))


class CopiesItself(Copied):
    def __deepcopy__(self, memo: dict[int, object]) -> Copied:
        return Copied(copy.deepcopy(self.network, memo), self.points, masked=True)


class HasAnotherForm(Copied):
    def ordinary(self) -> nn.Module:
        return Copied(self.network, self.points, masked=True)


@pytest.mark.parametrize("kind", [CopiesItself, HasAnotherForm])
@pytest.mark.parametrize("known", [True, False])
def test_a_network_whose_form_has_other_gradients_is_searched_itself(model, examples, kind, known):
    hostile = kind(model, examples[0] if known else examples[0] + 1).eval()
    with frozen_eval(hostile):
        network = FixedBatch(Target(hostile, examples[0]))
        assert network_to_search(network, examples[0]) is network


class Sure(nn.Module):
    """Logits of the same order, far apart and flat."""

    def forward(self, logits: Tensor) -> Tensor:
        return 100 * nn.functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits) + 0 * logits


class Shifted(nn.Module):
    """Logits of the next class: everything looks broken."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.roll(1, dims=1)


def test_a_network_that_is_not_finite_where_its_form_is_is_searched_itself(trained, examples, monkeypatch):
    class Bursts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            burst = ((x - examples[0][0]).flatten(1).abs().amax(1) > 0.01)[:, None]
            return torch.where(burst, torch.nan, trained(x))

    monkeypatch.setattr(module, "network_to_search", lambda network, x: FixedBatch(Target(trained, x), network.meter))
    suite = Suite(name="few", norm="Linf", eps=(0.03,), attacks=(PGD(steps=3),))
    found = evaluate(Bursts(), examples[0][:1], examples[1][:1], suite=suite, audit=False).verdicts
    assert found.verdict.item() == "nonfinite"
    assert "searched-again" in found["flags"].item()


def test_a_form_that_is_flat_near_the_examples_is_found_out_at_every_radius(trained, examples, monkeypatch):
    x, y = examples[0][:8], examples[1][:8]

    class Flat(nn.Module):
        """The network, but with the answers of the examples around them."""

        def forward(self, inputs: Tensor) -> Tensor:
            distance = (inputs[:, None] - x).flatten(2).abs().amax(2)
            near, known = (distance.amin(1) < 0.1001)[:, None], trained(x)[distance.argmin(1)]
            return torch.where(near, known + 0 * inputs.flatten(1).sum(1, keepdim=True), trained(inputs))

    suite = Suite(name="few", norm="Linf", eps=(0.06, 0.1, 0.2), attacks=(Curve(fmn_steps=10, steps=10),))
    plain = evaluate(trained, x, y, suite=suite, audit=False, fold=False)
    monkeypatch.setattr(module, "network_to_search", lambda network, x: FixedBatch(Target(Flat(), x), network.meter))
    found = evaluate(trained, x, y, suite=suite, audit=False)
    assert (plain.verdicts.verdict == "broken").sum() > (plain.verdicts.eps == 0.2).sum()  # some within smaller radii
    assert (found.verdicts.verdict == plain.verdicts.verdict).all()


def test_networks_without_a_fast_form_are_attacked_as_they_are(mlp, examples):
    with frozen_eval(mlp):
        network = FixedBatch(Target(mlp, examples[0]))
        assert network_to_search(network, examples[0]) is network
