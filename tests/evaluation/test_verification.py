"""Stored verdicts can be proved again, and whatever was changed is found out."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import APGD, FAB, FGSM, PGD, Square, Suite, evaluate
from robust_lowrank.evaluation.verification import read_adversarial, verify
from robust_lowrank.provenance import digest_tensors

SUITE = Suite(name="s", eps=(0.05, 0.1), attacks=(FGSM(), PGD(steps=5), APGD(steps=5), FAB(steps=3, targets=3), Square(queries=40)))
KEY, ATTACK = "pgd-5/0.1", ("pgd-5", 0.1)


@pytest.fixture(scope="module")
def subject(cnn, digits):
    return cnn, digits.x[:40], digits.y[:40]


@pytest.fixture(scope="module")
def result(subject):
    return evaluate(*subject, suite=SUITE)


def proved(subject, result, adversarial=None, record=None):
    found = verify(*subject, record or result.record, result.verdicts, result.adversarial if adversarial is None else adversarial)
    return {(proof.attack, proof.eps): proof for proof in found}


def test_every_broken_example_is_proved(subject, result):
    proofs = proved(subject, result)
    assert set(proofs) == set(zip(result.verdicts["attack"], result.verdicts["eps"], strict=True))
    broken = result.verdicts[result.verdicts["verdict"] == "broken"].groupby(["attack", "eps"]).size()
    for key, proof in proofs.items():
        assert proof.broken == proof.proved == broken.get(key, 0)
        assert proof.failed == ()
    assert proofs[ATTACK].broken > 3


def test_files_prove_what_was_returned(subject, result, tmp_path):
    result.save(tmp_path)
    record = records.read_record(tmp_path / "result.json", records.ResultRecord)
    verdicts = records.read_frame(tmp_path / "verdicts.parquet")
    proofs = verify(*subject, record, verdicts, read_adversarial(tmp_path / "adversarial.safetensors"))
    assert all(proof.broken == proof.proved for proof in proofs)
    (tmp_path / "adversarial.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        read_adversarial(tmp_path / "adversarial.safetensors")


def test_a_part_of_a_larger_set_is_proved_by_its_own_numbers(subject):
    part = evaluate(*subject, suite=SUITE, offset=1000)
    assert part.verdicts["example"].min() == 1000
    assert all(proof.broken == proof.proved for proof in proved(subject, part).values())


def tampered(found, change):
    inputs = found.inputs.clone()
    change(inputs)
    return found._replace(inputs=inputs)


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: inputs[0].mul_(0.5),  # beyond eps
        lambda inputs: inputs[0].view(-1)[5].fill_(torch.nan),
        lambda inputs: inputs[0].view(-1)[5].add_(0.2),
        lambda inputs: inputs[0].view(-1)[5].fill_(-1e-6),
    ],
)
def test_a_changed_input_fails(subject, result, change):
    found = result.adversarial[KEY]
    proof = proved(subject, result, result.adversarial | {KEY: tampered(found, change)})[ATTACK]
    assert proof.failed == (int(found.examples[0]),)
    assert proof.proved == proof.broken - 1


def test_an_input_that_breaks_nothing_fails(subject, result):
    found = result.adversarial[KEY]
    clean = found._replace(inputs=subject[1][found.examples])
    proof = proved(subject, result, result.adversarial | {KEY: clean})[ATTACK]
    assert proof.proved == 0
    assert proof.failed == tuple(found.examples.tolist())


@pytest.mark.parametrize("change", ["missing", "renumbered", "fewer", "shape", "dtype", "beyond"])
def test_inputs_that_are_not_those_of_the_verdicts_fail(subject, result, change):
    found, count = result.adversarial[KEY], len(result.adversarial[KEY].examples)
    parts = {
        "missing": None,
        "renumbered": found._replace(examples=found.examples.roll(1)),
        "fewer": found._replace(inputs=found.inputs[1:], examples=found.examples[1:]),
        "shape": found._replace(inputs=found.inputs[..., :4]),
        "dtype": found._replace(inputs=found.inputs.double()),
        "beyond": found._replace(examples=found.examples + 1000),
    }
    adversarial = {key: part for key, part in (result.adversarial | {KEY: parts[change]}).items() if part is not None}
    proof = proved(subject, result, adversarial)[ATTACK]
    assert proof.broken == count
    assert proof.proved <= (count - 1 if change == "fewer" else 0)
    assert len(proof.failed) == proof.broken - proof.proved


def test_results_of_other_weights_examples_or_labels_are_refused(subject, result):
    model, x, y = subject
    other = nn.Sequential(model, nn.Linear(10, 10))
    for changed, what in (((other, x, y), "weights"), ((model, x.flip(0), y), "data"), ((model, x, y.roll(1)), "data")):
        with pytest.raises(UserError, match=f"stale: it belongs to other {what}"):
            proved(changed, result)


def test_a_changed_label_fails(subject, result):
    """A forger who also mends the hash is found out by the network: its answer is now the label."""
    model, x, y = subject
    found = result.adversarial[KEY]
    with torch.no_grad():
        answers = model.eval()(found.inputs).argmax(dim=1)
    y = y.clone()
    y[found.examples[0]] = answers[0]
    hashes = result.record.hashes | {"data": digest_tensors({"x": x, "y": y})}
    proof = proved((model, x, y), result, record=result.record.model_copy(update={"hashes": hashes}))[ATTACK]
    assert int(found.examples[0]) in proof.failed


def test_a_verdict_that_nothing_proves_fails(subject, result):
    frame = result.verdicts.copy()
    held = frame.index[(frame["attack"] == "pgd-5") & (frame["eps"] == 0.1) & (frame["verdict"] == "robust")][0]
    frame.loc[held, "verdict"] = "broken"
    forged = replace(result, verdicts=frame)
    assert proved(subject, forged)[ATTACK].failed == (frame.loc[held, "example"],)
