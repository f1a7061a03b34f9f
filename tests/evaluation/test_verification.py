"""Stored verdicts can be proved again, and whatever was changed is found out."""

import copy
from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AAFast,
    AANative,
    AutoAttack,
    Curve,
    RandomNoise,
    Square,
    Suite,
    Torchattack,
    attack_again,
    evaluate,
)
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.verification import read_adversarial, verify
from robust_lowrank.provenance import digest_definition, digest_tensors
from robust_lowrank.statistics import clopper_pearson

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
    return {(proof.attack, proof.eps): proof for proof in found.proofs}


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
    assert verify(*subject, record, verdicts, read_adversarial(tmp_path / "adversarial.safetensors")).sound
    (tmp_path / "adversarial.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be read"):
        read_adversarial(tmp_path / "adversarial.safetensors")


def test_a_part_of_a_larger_set_is_proved_by_its_own_numbers(subject):
    part = evaluate(*subject, suite=SUITE, offset=1000)
    assert part.verdicts["example"].min() == 1000
    assert verify(*subject, part.record, part.verdicts, part.adversarial).sound


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


EDITS = {  # what nobody could tell from the network and the attacks alone is covered by the seal
    "example": lambda value: value + 1,
    "label": lambda value: (value + 1) % 10,
    "clean_prediction": lambda value: (value + 1) % 10,
    "attack": lambda value: value + "x",
    "norm": lambda value: "L1",
    "eps": lambda value: value * 1.01,
    "verdict": lambda value: "robust" if value != "robust" else "misclassified",
    "distance": lambda value: 0.5 if value != value else value * 0.9,
    "seed": lambda value: value + 1,
}


MANY = [pytest.param(False, id="few"), pytest.param(True, marks=pytest.mark.slow, id="many")]


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("column", EDITS)
def test_any_edited_cell_of_the_verdicts_is_found(subject, result, column, many):
    rows = torch.randperm(len(result.verdicts), generator=torch.Generator().manual_seed(0)).tolist()
    for row in rows[: 25 if many else 5]:
        frame = result.verdicts.copy()
        frame.loc[row, column] = EDITS[column](frame.loc[row, column])
        assert not verify(*subject, result.record, frame, result.adversarial).sound, f"row {row}"


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("column", ["adversarial_prediction", "margin"])
def test_any_edited_number_of_a_broken_example_is_found(subject, result, column, many):
    broken = result.verdicts.index[result.verdicts["verdict"] == "broken"]
    for row in broken[:: max(1, len(broken) // (15 if many else 4))]:
        frame = result.verdicts.copy()
        frame.loc[row, column] = frame.loc[row, column] - 1
        assert not verify(*subject, result.record, frame, result.adversarial).sound, f"row {row}"


@pytest.mark.parametrize("many", MANY)
def test_any_lost_or_doubled_row_is_found(subject, result, many):
    for row in range(0, len(result.verdicts), 37 if many else 151):
        for frame in (result.verdicts.drop(index=row), pd.concat([result.verdicts, result.verdicts.loc[[row]]], ignore_index=True)):
            assert not verify(*subject, result.record, frame, result.adversarial).sound, f"row {row}"


@pytest.mark.parametrize("many", MANY)
def test_any_edited_accuracy_or_definition_is_found(subject, result, many):
    def sound(**changes):
        return verify(*subject, result.record.model_copy(update=changes), result.verdicts, result.adversarial).sound

    assert sound()
    kept = result.record.accuracies
    for index, entry in list(enumerate(kept))[:: 1 if many else 5]:
        for changes in (
            {"correct": entry.correct + 1},
            {"total": entry.total - 1},
            {"low": entry.low - 0.01},
            {"value": entry.value + 1e-6},
        ):
            assert not sound(accuracies=[*kept[:index], entry.model_copy(update=changes), *kept[index + 1 :]]), (entry, changes)
        assert not sound(accuracies=[*kept[:index], *kept[index + 1 :]])
    assert not sound(eps=[0.1]) and not sound(seed=1) and not sound(norm="L2") and not sound(suite="other")
    definition = copy.deepcopy(result.record.definition)
    definition["attacks"][1]["steps"] = 50
    assert not sound(definition=definition)
    for key, value in (("title", "AutoAttack"), ("minimal", True)):
        told = copy.deepcopy(result.record.definition)
        told["attacks"][1][key] = value
        assert not sound(definition=told)


def test_other_answers_with_the_same_weights_are_found(subject, result):
    model, x, y = subject
    handle = model.register_forward_hook(lambda module, args, output: output * 3)
    found = verify(model, x, y, result.record, result.verdicts, result.adversarial)
    handle.remove()
    assert any("answers otherwise" in fault for fault in found.faults)


def test_a_share_that_is_attacked_anew_gives_the_verdicts_of_then(subject, result):
    """A part of the examples, in other batches, with the noise of then."""
    found = attack_again(*subject, result.record, result.verdicts, share=0.5, seed=3, batch_size=7)
    robust = result.verdicts[result.verdicts["verdict"] == "robust"]
    assert {(entry.attack, entry.eps) for entry in found} == set(
        zip(result.verdicts["attack"], result.verdicts["eps"], strict=True)
    )
    assert not any(entry.refuted for entry in found)
    assert all(entry.same_noise for entry in found)
    for entry in found:
        count = len(robust[(robust["attack"] == entry.attack) & (robust["eps"] == entry.eps)])
        assert entry.tried <= count
        assert entry.most == pytest.approx(clopper_pearson(0, entry.tried).high if entry.tried else 1.0)


def test_a_forged_robust_verdict_is_refuted_by_attacking_again(subject, result):
    frame = result.verdicts.copy()
    forged = frame.index[(frame["attack"] == "pgd-5") & (frame["eps"] == 0.1) & (frame["verdict"] == "broken")][:2]
    frame.loc[forged, "verdict"] = "robust"
    found = {(entry.attack, entry.eps): entry for entry in attack_again(*subject, result.record, frame, share=1.0, seed=0)}
    assert found[ATTACK].refuted == tuple(frame.loc[forged, "example"])
    with pytest.raises(UserError, match="cannot be attacked again"):
        attack_again(*subject, result.record, frame, share=1.5, seed=0)


def test_invented_examples_and_missing_answers_are_found(subject, result):
    """Examples beyond those that there are would be counted, and a record without answers would fit any forward pass."""
    model, x, y = subject
    invented = result.verdicts[result.verdicts["example"] == 0].assign(verdict="robust", example=len(x))
    frame = pd.concat([result.verdicts, invented], ignore_index=True)
    assert not verify(model, x, y, result.record, frame, result.adversarial).sound
    totals = [entry.model_copy(update={"total": entry.total + 1}) for entry in result.record.accuracies]
    faults = verify(model, x, y, result.record.model_copy(update={"accuracies": totals}), frame, result.adversarial).faults
    assert "there are verdicts of 41 examples, and 40 examples" in faults
    for behaviour in ({}, {"clean": ""}, result.record.behaviour | {"random": "1 2"}):
        assert not verify(
            *subject, result.record.model_copy(update={"behaviour": behaviour}), result.verdicts, result.adversarial
        ).sound


def test_verdicts_that_contradict_a_smaller_eps_are_found(subject, result):
    """What breaks an example within 0.05 breaks it within 0.1, and its stored input proves it."""
    frame, adversarial = result.verdicts.copy(), dict(result.adversarial)
    row = frame.index[(frame["attack"] == "pgd-5") & (frame["eps"] == 0.05) & (frame["verdict"] == "broken")][0]
    number = int(frame.loc[row, "example"])
    same = (frame["attack"] == "pgd-5") & (frame["eps"] == 0.1) & (frame["example"] == number)
    frame.loc[same, ["verdict", "distance", "margin"]] = ["robust", float("nan"), 1.0]
    found = adversarial[KEY]
    kept = found.examples != number
    adversarial[KEY] = found._replace(inputs=found.inputs[kept], examples=found.examples[kept])
    faults = verify(*subject, result.record, frame, adversarial).faults
    assert f"pgd-5 at 0.1: example {number} is not broken, and was within 0.05 already" in faults


def test_an_attack_under_the_name_of_autoattack_is_found(subject, result):
    """A forger who mends verdicts, inputs, hash and title alike."""
    definition = copy.deepcopy(result.record.definition)
    names = [entry["name"] for entry in definition["attacks"]]
    entry = definition["attacks"][names.index("pgd-5")]
    entry["name"] = entry["title"] = "autoattack"
    hashed = definition | {
        "attacks": [{k: v for k, v in e.items() if k not in ("title", "minimal")} for e in definition["attacks"]]
    }
    hashes = result.record.hashes | {"attack": digest_definition(hashed)}
    renamed = [e.model_copy(update={"attack": "autoattack"}) if e.attack == "pgd-5" else e for e in result.record.accuracies]
    record = result.record.model_copy(update={"definition": definition, "hashes": hashes, "accuracies": renamed})
    frame = result.verdicts.replace({"attack": {"pgd-5": "autoattack"}})
    adversarial = {key.replace("pgd-5/", "autoattack/"): part for key, part in result.adversarial.items()}
    faults = verify(*subject, record, frame, adversarial).faults
    assert "autoattack is the name of another attack than 'pgd'" in faults


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(AutoAttack(), marks=pytest.mark.slow),
        pytest.param(AANative(), marks=pytest.mark.slow),
        pytest.param(AAFast(), marks=pytest.mark.slow),
        Torchattack(algorithm="MIFGSM", parameters={"steps": 2}),
        RandomNoise(draws=2),
        Curve(steps=3),
    ],
)
def test_every_kind_of_attack_is_verified_and_put_again(subject, kind):
    """Attacks of other packages draw other noise, which refutes nothing by itself; names of one's own are allowed."""
    if isinstance(kind, Torchattack):
        pytest.importorskip("torchattacks")
    if isinstance(kind, AutoAttack):
        pytest.importorskip("pyautoattack")
    model, x, y = subject
    own = FGSM(name="mine", examples="survivors")
    found = evaluate(model, x[:3], y[:3], suite=Suite(name="s", eps=(0.1, 0.05), attacks=(kind, own)), audit=False)
    checked = verify(model, x[:3], y[:3], found.record, found.verdicts, found.adversarial, found.closest)
    assert checked.sound, checked.faults
    again = attack_again(model, x[:3], y[:3], found.record, found.verdicts, share=1.0, seed=0)
    assert {(entry.attack, entry.eps) for entry in again} == set(zip(found.verdicts["attack"], found.verdicts["eps"], strict=True))
    assert {entry.same_noise for entry in again if entry.attack != "mine-on-survivors"} == {isinstance(kind, NativeAttack)}


@pytest.mark.slow
def test_results_of_other_packages_are_proved_with_their_closest_inputs(mlp, digits):
    suite = Suite(name="s", eps=(0.08,), attacks=(AutoAttack(), Torchattack(algorithm="MIFGSM")))
    x, y = digits.x[:6], digits.y[:6]
    found = evaluate(mlp, x, y, suite=suite, audit=False)
    assert any(len(part.examples) for part in found.closest.values())
    assert verify(mlp, x, y, found.record, found.verdicts, found.adversarial, found.closest).sound
