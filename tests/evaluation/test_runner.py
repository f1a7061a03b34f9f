import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from robust_lowrank import checkpoint, records
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import FGSM, PGD, EvalConfig, Linf, Suite, check, evaluate, fingerprint
from robust_lowrank.evaluation.audit import probe
from robust_lowrank.evaluation.network.fixed_batch import PIECE
from robust_lowrank.evaluation.result import KEPT_EXAMPLES, clean_inputs
from robust_lowrank.statistics import wilson
from robust_lowrank.threat import OBSERVED


@pytest.fixture(scope="module")
def result(cnn, digits):
    suite = Suite(name="curve", eps=(0.04, 0.12, 0.08), attacks=(PGD(steps=10), FGSM(eps=(0.08, 0.12))))
    return evaluate(cnn, digits.x[:70], digits.y[:70], suite=suite, batch_size=32, seed=7)


class Constant(nn.Module):
    """Predicts one class whatever it sees."""

    def __init__(self, prediction: int) -> None:
        super().__init__()
        self.register_buffer("logits", nn.functional.one_hot(torch.tensor(prediction), 10).float() * 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def test_T25_accuracy_of_a_constant_predictor_is_exact_over_batches(device):
    y = torch.arange(2_000) % 10
    y[:123] = 4
    expected = int((y == 4).sum())
    x = torch.rand(2_000, 3)
    result = evaluate(Constant(4).to(device), x, y, suite="quick", batch_size=64)
    for interval in (result.clean_accuracy, result.robust_accuracy, result.accuracy("pgd-20", 8 / 255)):
        assert interval.value == expected / 2_000
        assert interval == wilson(expected, 2_000)
    finding = next(finding for finding in result.audit if finding.check == "zero gradients")
    assert finding.status == "fail"


def test_T25_the_attacked_network_is_the_evaluated_one(cnn, digits, monkeypatch):
    monkeypatch.setitem(PIECE, "cpu", 1)  # no rows that fill up a piece
    model = nn.Sequential(cnn, nn.Identity())
    x, y, rows = digits.x[:40], digits.y[:40], []
    handle = model.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    result = evaluate(model, x, y, suite="quick", eps=0.1, batch_size=16, fold=False)
    frame = result.verdicts
    attacked = int((frame["verdict"] != "misclassified").sum())
    first, clean, again, observed = 1 + 2, len(x), 16, 3 * OBSERVED
    evaluated = sum(rows)
    rows.clear()
    probe(model, x, y, Linf(0.1), seed=0, batch_size=16)
    audited = sum(rows)
    handle.remove()
    assert evaluated - audited == first + clean + again + observed + int(frame["forwards"].sum()) + attacked  # one check a row
    assert result.record.hashes["weights"] == checkpoint.digest(model)
    for found in result.adversarial.values():
        assert check(model, x[found.examples], y[found.examples], found.inputs, Linf(0.1)).broken.all()


def test_there_is_a_row_for_every_example_attack_and_eps(result):
    frame = result.verdicts
    assert tuple(frame.columns) == records.VERDICTS
    units = {("fgsm", 0.08), ("fgsm", 0.12), ("pgd-10", 0.04), ("pgd-10", 0.08), ("pgd-10", 0.12)}
    assert set(zip(frame["attack"], frame["eps"], strict=True)) == units
    assert len(frame) == 70 * len(units)
    assert not frame.duplicated(["example", "attack", "eps"]).any()
    assert set(frame["verdict"]) <= set(records.VERDICT)
    order = list(dict.fromkeys(zip(frame["attack"], frame["eps"], strict=True)))
    assert order == [("fgsm", 0.08), ("fgsm", 0.12), ("pgd-10", 0.04), ("pgd-10", 0.08), ("pgd-10", 0.12)]
    assert (frame["seed"] == 7).all()


def test_rows_are_consistent(result, cnn, digits):
    frame = result.verdicts
    with torch.no_grad():
        clean = cnn(digits.x[:70]).argmax(dim=1).numpy()
    assert (frame["clean_prediction"].to_numpy() == clean[frame["example"]]).all()
    assert (frame["label"].to_numpy() == digits.y.numpy()[frame["example"]]).all()
    broken, missed = frame["verdict"] == "broken", frame["verdict"] == "misclassified"
    assert ((frame["clean_prediction"] != frame["label"]) == missed).all()
    assert (frame["adversarial_prediction"] != frame["label"])[broken].all()
    assert ((frame["margin"] < 0) == (broken | missed)).all()
    assert (frame["distance"] <= frame["eps"])[broken].all()
    assert frame["distance"].notna().equals(broken)
    assert (frame.loc[missed, ["forwards", "backwards", "seconds"]] == 0).all(axis=None)
    assert broken.any()
    assert missed.any()
    assert (frame["verdict"] == "robust").any()


def test_accuracies_are_still_correct_over_all_and_the_worst_case_is_per_example(result):
    frame = result.verdicts.assign(held=result.verdicts["verdict"] == "robust")
    for (attack, eps), rows in frame.groupby(["attack", "eps"]):
        assert result.accuracy(attack, eps) == wilson(int(rows["held"].sum()), 70)
    for eps, rows in frame.groupby("eps"):
        held = rows.groupby("example")["held"].all()
        assert result.accuracy("worst", eps) == wilson(int(held.sum()), 70)
    assert result.robust_accuracy == result.accuracy("worst", 0.12)
    assert result.clean_accuracy == result.accuracy("clean")
    assert float(result.clean_accuracy) == (frame["clean_prediction"] == frame["label"]).mean()
    with pytest.raises(UserError, match="no accuracy under 'pgd'"):
        result.accuracy("pgd", 0.12)


def test_examples_broken_within_a_smaller_eps_are_not_attacked_again(result):
    frame = result.verdicts[result.verdicts["attack"] == "pgd-10"].set_index(["eps", "example"])
    broken = frame["verdict"] == "broken"
    early = broken[0.04][broken[0.04]].index
    assert len(early) > 0
    for eps in (0.08, 0.12):
        rows = frame.loc[eps].loc[early]
        assert (rows["verdict"] == "broken").all()
        assert (rows["forwards"] == 0).all()
        assert (rows["distance"] <= 0.04).all()
        assert rows["flags"].str.contains("within-eps=0.04").all()
    assert not result.verdicts["flags"][result.verdicts["attack"] == "fgsm"].str.contains("within").any()


def test_survivors_of_earlier_attacks_are_reported_under_another_name(cnn, digits):
    x, y = digits.x[:40], digits.y[:40]
    suite = Suite(name="s", eps=(0.1,), attacks=(PGD(steps=10, examples="survivors"), FGSM()))
    result = evaluate(cnn, x, y, suite=suite)
    frame = result.verdicts.set_index(["attack", "example"])
    broken = frame.loc["fgsm"].query("verdict == 'broken'").index
    after = frame.loc["pgd-10-on-survivors"]
    assert len(broken) > 0
    assert (after.loc[broken, "forwards"] == 0).all()
    assert after.loc[broken, "flags"].str.contains("by=fgsm").all()
    assert result.accuracy("pgd-10-on-survivors", 0.1) == result.accuracy("worst", 0.1)
    together = set(frame.loc["fgsm"].query("verdict == 'broken'").index) | set(after.query("verdict == 'broken'").index)
    assert set(after.query("verdict == 'broken'").index) == together


def test_saved_files_are_what_was_returned(result, tmp_path):
    directory = tmp_path / "results" / "curve"
    result.save(directory)
    saved = result.save(directory)
    assert sorted(path.name for path in directory.iterdir()) == [
        "adversarial.safetensors",
        "clean.safetensors",
        "closest.safetensors",
        "result.json",
        "verdicts.parquet",
    ]
    assert records.read_record(directory / "result.json", records.ResultRecord) == saved
    assert saved.model_copy(update={"files": {}, "seal": ""}) == result.record
    assert not records.broken_seals(directory / "result.json", saved)
    pd.testing.assert_frame_equal(records.read_frame(directory / "verdicts.parquet"), result.verdicts)
    tensors = load_file(directory / "adversarial.safetensors")
    assert set(tensors) == {f"{key}/{part}" for key in result.adversarial for part in ("inputs", "examples")}
    for key, found in result.adversarial.items():
        assert torch.equal(tensors[f"{key}/inputs"], found.inputs)
        assert torch.equal(tensors[f"{key}/examples"], found.examples)
    kept = load_file(directory / "clean.safetensors")
    assert torch.equal(kept["inputs"], result.clean.inputs) and torch.equal(kept["examples"], result.clean.examples)


def test_the_first_clean_examples_are_kept_within_a_limit():
    few = clean_inputs(torch.rand(5, 1, 2, 2), offset=7)
    assert few.inputs.shape == (5, 1, 2, 2) and few.examples.tolist() == [7, 8, 9, 10, 11]
    assert len(clean_inputs(torch.zeros(100, 1, 2, 2), 0).examples) == KEPT_EXAMPLES
    large = torch.zeros(3, 1, 512, 513)
    assert len(clean_inputs(large, 0).examples) == 1
    assert clean_inputs(large, 0).inputs.untyped_storage().nbytes() == large[0].numel() * 4


def test_a_save_that_fails_leaves_the_result_that_was_there(result, tmp_path, monkeypatch):
    saved = result.save(tmp_path)
    monkeypatch.setattr(records, "write_frame", lambda path, frame: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        result.save(tmp_path)
    assert records.read_record(tmp_path / "result.json", records.ResultRecord) == saved
    assert not records.broken_seals(tmp_path / "result.json", saved)


@pytest.mark.slow
def test_hashes_follow_weights_data_and_attack(cnn, digits):
    x, y = digits.x[:10], digits.y[:10]

    def hashes(model=cnn, x=x, y=y, **options):
        return evaluate(model, x, y, suite="quick", **options).record.hashes

    base = hashes()
    assert base == hashes(batch_size=3)
    assert hashes(seed=1) == base | {"attack": hashes(seed=1)["attack"]}
    assert hashes(seed=1)["attack"] != base["attack"]
    assert hashes(eps=0.1)["attack"] not in (base["attack"], hashes(eps=0.2)["attack"])
    assert hashes(x=x.flip(0))["data"] != base["data"] != hashes(y=y.flip(0))["data"]
    assert hashes(model=nn.Sequential(cnn, nn.Linear(10, 10)))["weights"] != base["weights"]


@pytest.mark.parametrize("suite", ["quick", "standard"])
def test_the_fingerprint_is_known_before_the_attack(cnn, digits, suite):
    model, x, y, rows = nn.Sequential(cnn), digits.x[:5], digits.y[:5], []
    handle = model.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    before = fingerprint(model, x, y, EvalConfig.resolve(suite, eps=1.0, seed=3, batch_size=4))
    handle.remove()
    assert rows == [1, 2, 32, 32, 32]  # one example, two, and a batch for each kind of its behaviour
    record = evaluate(model, x, y, suite=suite, eps=1.0, seed=3, batch_size=4).record
    assert before == (record.hashes, record.behaviour)
    assert before.stale(record) == ""


def test_the_definition_says_every_parameter(result):
    definition = result.record.definition
    pgd = next(entry for entry in definition["attacks"] if entry["attack"] == "pgd")
    assert pgd["step_sizes"] == pytest.approx([0.01, 0.02, 0.03])
    assert pgd.items() >= {"steps": 10, "restarts": 1, "random_start": True, "engine": "native", "name": "pgd-10"}.items()
    assert definition["seed"] == 7
    assert result.record.eps == [0.04, 0.08, 0.12]
    assert result.record.interval == "Wilson 95 %"
    assert {"torch", "pyautoattack", "robust-lowrank", "python"} <= set(result.record.versions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_models_of_other_types_are_attacked(mlp, digits, dtype, device):
    import copy

    model = copy.deepcopy(mlp).to(device, dtype)
    result = evaluate(model, digits.x[:40], digits.y[:40], suite="quick", eps=0.1)
    assert result.clean_accuracy.value > 0.8
    assert result.robust_accuracy.value < result.clean_accuracy.value


class Broken(nn.Module):
    """A linear model with NaN logits for inputs whose first feature exceeds 0.6 and infinite ones below 0.1."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x[:, :1]
        return torch.where(first > 0.6, math.nan, torch.where(first < 0.1, math.inf, self.linear(x)))


def test_examples_without_finite_logits_are_a_category_of_their_own():
    model = Broken()
    x = torch.full((9, 4), 0.35)
    x[:3, 0], x[3:6, 0] = 0.9, 0.05
    with torch.no_grad():
        y = model.linear(x).argmax(dim=1)
    far = evaluate(model, x, y, suite="quick", eps=1e-4)
    assert far.verdicts["verdict"].tolist() == (["nonfinite"] * 6 + ["robust"] * 3) * 2
    assert (far.verdicts["clean_prediction"].to_numpy()[:6] == -1).all()
    assert far.clean_accuracy.value == far.robust_accuracy.value == pytest.approx(3 / 9)
    assert "fail" in {finding.status for finding in far.audit if finding.check == "finite"}
    assert far.verdicts["flags"][0] == "nonfinite-logits"


def test_examples_that_meet_nan_under_attack_are_not_robust():
    class Edge(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = x.mean(dim=1)
            return torch.stack([1 - t, t - 1], dim=1).where((t < 0.55)[:, None], math.nan)

    x, y = torch.full((4, 3), 0.5), torch.zeros(4, dtype=torch.int64)
    result = evaluate(Edge(), x, y, suite="quick", eps=0.1)
    assert set(result.verdicts["verdict"]) == {"nonfinite"}
    assert result.clean_accuracy.value == 1
    assert result.robust_accuracy.value == 0


X, Y = torch.full((4, 3), 0.5), torch.tensor([0, 1, 0, 1])


def changed(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": changed(X, 1.01)}, r"1 of 4 do not \(the first is number 3, with 1.01\)"),
        ({"x": changed(X, -0.01)}, "inputs lie in"),
        ({"x": changed(X, math.nan)}, "with nan"),
        ({"x": (X * 255).byte()}, "divide by 255"),
        ({"x": X.half()}, "float16"),
        ({"x": X[:0], "y": Y[:0]}, "N > 0"),
        ({"x": X[:, 0]}, r"shape \(N, ...\)"),
        ({"x": np.full((4, 3), 0.5)}, "ndarray"),
        ({"y": Y.float()}, "int64"),
        ({"y": Y.int()}, "int64"),
        ({"y": Y[:3]}, r"shape \(4,\)"),
        ({"y": Y[:, None]}, r"shape \(4,\)"),
        ({"y": changed(Y, 2)}, "2 classes, 0 to 1, but example 3 has the label 2"),
        ({"y": changed(Y, -1)}, "label -1"),
        ({"eps": 0}, "above 0"),
        ({"eps": 1.5}, "outside the range of Linf"),
        ({"eps": "8/0"}, "not a number"),
        ({"eps": 2.0, "norm": "L2"}, "outside the range of L2"),
        ({"norm": "L3", "eps": 0.1}, "unknown norm 'L3'"),
        ({"norm": "L2"}, "give an eps for L2"),
        ({"suite": "quik"}, "did you mean 'quick'"),
        ({"suite": "nowhere.toml"}, "no suite file"),
        ({"batch_size": 0}, "batch_size"),
        ({"model": nn.Linear(5, 2)}, "cannot take inputs"),
        ({"model": nn.Linear(3, 2), "output": "logits"}, "no output 'logits'"),
        ({"model": "resnet18"}, "not a str"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_attacked(arguments, message):
    options = {"model": nn.Linear(3, 2), "x": X, "y": Y, "suite": "quick"} | arguments
    model = options.pop("model")
    with pytest.raises(UserError, match=message) as caught:
        evaluate(model, options.pop("x"), options.pop("y"), **options)
    assert len(str(caught.value).splitlines()) <= 3
    assert isinstance(model, str) or model.training


def test_progress_rises_to_one_and_says_what_is_done(cnn, digits):
    calls = []
    evaluate(
        cnn, digits.x[:20], digits.y[:20], suite="quick", eps=(0.05, 0.1), batch_size=8, progress=lambda *call: calls.append(call)
    )
    fractions = [fraction for fraction, _ in calls]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert all(0 <= fraction <= 1 for fraction in fractions)
    assert any(re.fullmatch(r"pgd-20 at Linf 0.1, \d+ of 20 hold", what) for _, what in calls)


def test_progress_is_told_while_several_batches_are_attacked(cnn, digits, monkeypatch):
    monkeypatch.setattr("robust_lowrank.evaluation.run.POOL", 16)
    calls, suite = [], Suite(name="s", eps=(0.02,), attacks=(PGD(steps=20),))
    x, y = digits.x[:40], digits.y[:40]
    evaluate(cnn, x, y, suite=suite, batch_size=8, progress=lambda *call: calls.append(call), audit=False)
    fractions = [fraction for fraction, _ in calls]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) >= 20, "one attack of fifty steps"


def test_without_its_audit_an_evaluation_has_the_same_verdicts(cnn, digits):
    whole, bare = (evaluate(cnn, digits.x[:10], digits.y[:10], suite="quick", eps=0.1, audit=audit) for audit in (True, False))
    assert whole.audit and not bare.audit
    assert bare.record.hashes == whole.record.hashes
    assert bare.verdicts.drop(columns="seconds").equals(whole.verdicts.drop(columns="seconds"))


def test_importing_the_evaluation_loads_nothing_heavy():
    heavy = {"pandas", "pyautoattack", "torchattacks", "scipy", "statsmodels", "altair", "sklearn"}
    code = f"import sys, robust_lowrank.evaluation; print(sorted({heavy!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_loop_in_inference_mode_gets_the_same_result(cnn, digits):
    expected = evaluate(cnn, digits.x[:12], digits.y[:12], suite="quick", eps=0.1)
    with torch.inference_mode():
        x, y = digits.x[:12].clone(), digits.y[:12].clone()
        result = evaluate(cnn, x, y, suite="quick", eps=0.1)
        assert torch.is_inference_mode_enabled()
        made_there = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with pytest.raises(UserError, match="made in inference mode"):
            evaluate(made_there, x, y, suite="quick", eps=0.1)
    pd.testing.assert_frame_equal(result.verdicts.drop(columns="seconds"), expected.verdicts.drop(columns="seconds"))
    assert result.record.hashes == expected.record.hashes
    assert result.record.audit == expected.record.audit
