"""Anything that returns logits somewhere can be attacked, and has the verdicts of a network that returns them."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robust_lowrank import checkpoint
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import as_classifier, check, evaluate, fingerprint, verify
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.suite import EvalConfig
from robust_lowrank.threat import Linf

OPTIONS = {"suite": "quick", "eps": 0.1}


class Returning(nn.Module):
    """A network whose logits are a part of what it returns."""

    def __init__(self, network: nn.Module, form) -> None:
        super().__init__()
        self.network, self.form = network, form

    def forward(self, x):
        return self.form(self.network(x))


FORMS = {
    "key": (lambda z: {"loss": z.sum(), "logits": z}, "logits"),
    "attribute": (lambda z: SimpleNamespace(logits=z), "logits"),
    "index": (lambda z: (z.sum(), z), 1),
    "function": (lambda z: {"all": [z]}, lambda found: found["all"][0]),
}


@pytest.mark.parametrize(("form", "output"), FORMS.values(), ids=FORMS)
def test_logits_anywhere_in_what_a_network_returns(cnn, digits, form, output):
    x, y = digits.x[:20], digits.y[:20]
    expected, model = evaluate(cnn, x, y, **OPTIONS), Returning(cnn, form)
    found = evaluate(model, x, y, output=output, **OPTIONS)
    assert found.verdicts.drop(columns="seconds").equals(expected.verdicts.drop(columns="seconds"))
    assert found.record.hashes["weights"] == checkpoint.digest(model)
    assert verify(as_classifier(model, output), x, y, found.record, found.verdicts, found.adversarial).sound
    assert not fingerprint(as_classifier(model, output), x, y, EvalConfig.resolve(**OPTIONS)).stale(found.record)


def test_a_function_is_attacked_and_known_by_its_answers(cnn, digits):
    x, y = digits.x[:20], digits.y[:20]
    cnn.eval()
    found = evaluate(lambda inputs: cnn(inputs), x, y, **OPTIONS)
    expected = evaluate(cnn, x, y, **OPTIONS)
    assert found.verdicts["verdict"].equals(expected.verdicts["verdict"])
    known = fingerprint(as_classifier(lambda inputs: 2 * cnn(inputs)), x, y, EvalConfig.resolve(**OPTIONS))
    assert "other answers" in known.stale(found.record)


def test_what_is_not_there_is_named(cnn, digits):
    x, y = digits.x[:4], digits.y[:4]
    model = Returning(cnn, lambda z: {"scores": z})
    with pytest.raises(UserError, match=r"returned a dict for one input.*output="):
        evaluate(model, x, y, **OPTIONS)
    with pytest.raises(UserError, match="a dict with 'scores', and no output 'logits'"):
        evaluate(model, x, y, output="logits", **OPTIONS)
    with pytest.raises(UserError, match="no output 5"):
        evaluate(Returning(cnn, lambda z: (z,)), x, y, output=5, **OPTIONS)
    with pytest.raises(UserError, match="not a str"):
        evaluate("cnn", x, y, **OPTIONS)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_is_two_of_which_softmax_makes_its_sigmoid(digits, shape):
    x, y = digits.x[:60], (digits.y[:60] > 4).long()
    torch.manual_seed(0)
    binary = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    one = Returning(binary, lambda z: z.reshape(shape))
    two = Returning(binary, lambda z: torch.cat([torch.zeros_like(z), z], dim=1))
    z = binary(x)
    assert torch.allclose(Target(one, x)(x).softmax(1)[:, 1:], z.sigmoid())
    found, expected = (evaluate(model, x, y, **OPTIONS) for model in (one, two))
    assert found.verdicts["verdict"].equals(expected.verdicts["verdict"])
    assert found.clean_accuracy.value == float(((z.squeeze(1) > 0) == y.bool()).double().mean())


class OneByOne(nn.Module):
    """A network that was exported for one input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x):
        if len(x) != 1:
            raise RuntimeError(f"expected a batch of 1, not of {len(x)}")
        return self.network(x)


def test_a_network_for_batches_of_one_gets_its_inputs_one_by_one(cnn, digits):
    x, y = digits.x[:6], digits.y[:6]
    found = evaluate(OneByOne(cnn), x, y, **OPTIONS)
    expected = evaluate(cnn, x, y, **OPTIONS)
    assert found.verdicts["verdict"].equals(expected.verdicts["verdict"])
    for key, adversarial in found.adversarial.items():
        eps = float(key.rpartition("/")[2])
        assert check(cnn, x[adversarial.examples], y[adversarial.examples], adversarial.inputs, Linf(eps)).broken.all()
