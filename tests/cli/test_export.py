"""`export` writes a network in other forms, and `attack --form` holds them against the run."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import Result

from robust_lowrank import data, export, jobs, load, models, records, training
from robust_lowrank.jobs.subjects import network, trained
from robust_lowrank.records.deployed import deployed_forms

Command = Callable[..., Result]

SUITE = """
norm = "Linf"
eps = [0.05, 0.15]
[[attacks]]
attack = "pgd"
engine = "native"
steps = 4
"""


@pytest.fixture
def suite(here: Path) -> Path:
    path = here / "short.toml"
    path.write_text(SUITE)
    return path


def ended(result: Result, code: int = 0) -> Result:
    assert result.exit_code == code, (result.output, result.stderr)
    return result


def test_weights_of_a_run_are_taken_away(rlr_eval: Command, runs: Path) -> None:
    x = data.load("digits").test_x[:40]
    due = training.load_network(runs / "LOW")(x)
    for form in ("dense", "factors", "auto"):
        shown = ended(rlr_eval("export", "LOW", "--to", form)).stdout
        assert f"LOW/exports/{form}.safetensors" in shown and "0 predictions are others" in shown
        assert ("merged, ms" in shown) == (form == "auto")
        fresh = models.build("cnn", input_shape=(1, 8, 8), num_classes=10)
        torch.testing.assert_close(load(fresh, f"LOW/exports/{form}.safetensors").eval()(x), due, rtol=1e-4, atol=1e-5)
    plain = models.build("cnn", input_shape=(1, 8, 8), num_classes=10)
    plain.load_state_dict(load_file("LOW/exports/dense.safetensors"))
    printed = json.loads(ended(rlr_eval("export", "DENSE", "--to", "torch-export", "--out", "net.pt2", "--json")).stdout)
    assert printed["path"] == "net.pt2" and printed["flipped"] == 0 and printed["difference"] < 1e-4
    attack = ("attack", "--model", "net.pt2", "--data", "digits", "--suite", "quick", "--n", 3, "--out", "FROM_FILE")
    ended(rlr_eval(*attack))


def test_an_own_network_is_taken_away_under_its_own_names(rlr_eval: Command, here: Path) -> None:
    """Where it was trained behind a mean and deviation, weights are without them, and programs with them."""
    (here / "taken_away_nets.py").write_text(
        "from torch import nn\n"
        "def small(num_classes=10):\n"
        "    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, num_classes))\n"
    )
    of = ("--model", "taken_away_nets:small", "--data", "digits", "--mean", "0.3", "--std", "0.5")
    ended(rlr_eval("train", *of, "--method", "condlr", "--rank", 0.5, "--epochs", 1, "--out", "run"))
    x, due = data.load("digits").test_x[:40], training.load_network(here / "run")
    inputs, expected = (x - 0.3) / 0.5, due(x).detach()
    for form in ("dense", "factors", "auto"):
        shown = ended(rlr_eval("export", "run", "--to", form)).stdout
        assert "0 predictions are others" in shown and "[0, 1], less mean 0.3, over std 0.5" in shown
        fresh = models.make("taken_away_nets:small", input_shape=(1, 8, 8), num_classes=10)
        torch.testing.assert_close(load(fresh, f"run/exports/{form}.safetensors").eval()(inputs), expected, rtol=1e-4, atol=1e-5)
    fresh = models.make("taken_away_nets:small", input_shape=(1, 8, 8), num_classes=10)
    fresh.load_state_dict(load_file("run/exports/dense.safetensors"))
    shown = ended(rlr_eval("export", "run", "--to", "torch-export")).stdout
    assert "torch.export.load('run/exports/torch-export.pt2').module()(images)" in shown and "less mean" not in shown
    program = torch.export.load("run/exports/torch-export.pt2").module()
    torch.testing.assert_close(program(x), expected, rtol=1e-4, atol=1e-5)
    attack = ("attack", *of, "--weights", "run/exports/factors.safetensors", "--suite", "quick", "--n", 3, "--out", "elsewhere")
    assert ended(rlr_eval(*attack)).exit_code == 0


def test_an_onnx_file_is_run_as_it_is_said(rlr_eval: Command, runs: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    shown = ended(rlr_eval("export", "LOW", "--to", "onnx")).stdout
    line = next(line for line in shown.splitlines() if line.startswith("Run it: ")).removeprefix("Run it: ")
    images = data.load("digits").test_x[:5].numpy()
    (logits,) = eval(line, {"onnxruntime": onnxruntime, "images": images})  # it is to be what a reader types
    torch.testing.assert_close(
        torch.from_numpy(logits), training.load_network(runs / "LOW")(data.load("digits").test_x[:5]).detach()
    )
    assert "(N, 1, 8, 8) float32 in [0, 1]" in shown


def test_what_export_refuses(rlr_eval: Command, runs: Path) -> None:
    (runs / "there.safetensors").write_text("mine")
    for arguments, message in (
        (("LOW", "--to", "onxx"), "unknown form 'onxx': did you mean 'onnx'"),
        (("NONE",), "NONE is not a run directory"),
        (("LOW", "--to", "dense", "--out", "there.safetensors"), "is there already"),
        (("LOW", "--to", "dense", "--out", "there.onnx"), "ends in .safetensors"),
        (("LOW", "--data-dir", "nowhere"), "nowhere does not exist"),
    ):
        assert message in ended(rlr_eval("export", *arguments), 2).stderr
    assert (runs / "there.safetensors").read_text() == "mine" and not (runs / "LOW" / "exports").exists()


@pytest.mark.slow
def test_forms_with_gradients_are_put_to_the_same_suite(rlr_eval: Command, runs: Path, suite: Path) -> None:
    options = ("--suite", suite, "--n", 24, "--form", "merged,bf16")
    printed = json.loads(ended(rlr_eval("attack", "LOW", *options, "--json")).stdout)
    rows = {(row["label"].rpartition(", ")[2], row["eps"]): row for row in printed["forms"]}
    assert [*rows] == [(form, eps) for form in ("bf16", "merged") for eps in (0.0, 0.05, 0.15)]
    run = records.read_run(runs / "LOW")
    for form in deployed_forms(run, run.results["short"]):
        model = trained(form.run.path, training.DataConfig()).model
        x, y = (part[:24] for part in (data.load("digits").test_x, data.load("digits").test_y))
        with torch.no_grad():
            right = model(x.to(next(model.parameters()).dtype)).argmax(dim=1) == y
        assert rows[form.form, 0.0]["accuracy"] == pytest.approx(float(right.float().mean()))
        assert form.result.record.hashes["attack"] == form.trained.record.hashes["attack"]
    assert rows["merged", 0.15]["lost"] == rows["merged", 0.15]["gained"] == []  # it computes the same but for rounding
    again = ended(rlr_eval("attack", "LOW", *options))
    assert "is there already" in again.stderr and "likewise" in again.stdout
    assert "proved" in ended(rlr_eval("verify", "LOW/forms/bf16")).stdout
    assert "Deployed forms" in Path(ended(rlr_eval("report", "LOW")) and "reports/comparison/report.md").read_text()


@pytest.mark.slow
def test_forms_without_gradients_are_attacked_without(rlr_eval: Command, runs: Path, suite: Path) -> None:
    pytest.importorskip("onnxruntime")
    shown = ended(rlr_eval("attack", "LOW", "--suite", suite, "--n", 24, "--form", "int8")).stdout
    assert "without gradients" in shown
    run = records.read_run(runs / "LOW")
    (form,) = deployed_forms(run, run.results["short"])
    kinds = [entry["attack"] for entry in form.result.record.definition["attacks"]]
    assert kinds == ["transfer", "square"] and form.result.record.suite == "short-black-box"
    held, verdicts = form.held(0.15), form.result.verdicts
    own = verdicts[verdicts["eps"] == 0.15].groupby("example")["verdict"].agg(lambda each: (each == "robust").all())
    assert not (held["form"] & ~own).any()  # an input of the trained network's may break it too, never the reverse
    flipped = load_file(form.result.path / "flipped.safetensors") if form.result.path else {}
    numbers = {number for eps in (0.0, 0.05, 0.15) for number in (*form.lost(eps), *form.gained(eps))}
    assert set(flipped["examples"].tolist()) == numbers
    assert torch.equal(flipped["inputs"], data.load("digits").test_x[flipped["examples"]])
    ended(rlr_eval("verify", "LOW/forms/int8"))
    page = Path(ended(rlr_eval("report", "LOW", "--out", "page")) and "page/report.html").read_text()
    assert page.count('class="shot pair"') >= len(numbers) > 0 or not numbers
    (runs / "LOW/forms/int8/network.onnx").write_bytes((runs / "LOW/forms/int8/network.onnx").read_bytes()[:-1])
    assert ended(rlr_eval("verify", "LOW/forms/int8"), 2).stderr


def test_a_training_anew_takes_its_forms_along(rlr_eval: Command, runs: Path, suite: Path) -> None:
    ended(rlr_eval("attack", "LOW", "--suite", suite, "--n", 3, "--form", "merged"))
    export(network(runs / "LOW"), to="dense", path=runs / "moved.safetensors")
    weights = (runs / "LOW" / "model.safetensors").read_bytes()
    (runs / "LOW" / "model.safetensors").write_bytes((runs / "DENSE" / "model.safetensors").read_bytes())
    config = training.TrainConfig.from_record(records.read_run(runs / "LOW", results=False).record.config)
    jobs.train(config, runs / "LOW")
    assert (runs / "LOW" / "model.safetensors").read_bytes() == weights and not (runs / "LOW" / "forms").exists()


@pytest.mark.slow
def test_a_form_that_lost_a_file_is_made_again(rlr_eval: Command, runs: Path, suite: Path) -> None:
    attack = ("attack", "LOW", "--suite", suite, "--n", 3, "--form", "merged")
    ended(rlr_eval(*attack))
    (runs / "LOW/forms/merged/metrics.parquet").unlink()
    ended(rlr_eval("verify", "LOW"))  # the run itself lacks nothing
    assert "Attack this form again" in ended(rlr_eval("report", "LOW"), 2).stderr
    assert "is there already" in ended(rlr_eval(*attack)).stderr
    ended(rlr_eval("report", "LOW"))
    replayed = runs / "LOW/forms/merged/results/short/replayed.parquet"
    frame = pd.read_parquet(replayed)
    frame.loc[len(frame)] = ["trained", 0, "pgd-4", 0.15]
    frame.to_parquet(replayed, index=False)
    assert "replayed.parquet is not as it was written" in ended(rlr_eval("verify", "LOW/forms/merged"), 1).stdout


def test_what_form_refuses(rlr_eval: Command, runs: Path, suite: Path) -> None:
    common = ("--suite", suite, "--n", 3)
    assert "unknown form 'fp4'" in ended(rlr_eval("attack", "LOW", *common, "--form", "fp4"), 2).stderr
    foreign = ("--model", "cnn", "--weights", "x", "--data", "digits", "--out", "F")
    assert "--form is of a run's own network" in ended(rlr_eval("attack", *foreign, "--form", "merged"), 2).stderr
    ended(rlr_eval("attack", "LOW", *common, "--form", "merged"))
    assert "is a form itself" in ended(rlr_eval("attack", "LOW/forms/merged", *common, "--form", "merged"), 2).stderr
    record = runs / "LOW/forms/merged/run.json"
    record.write_text(record.read_text().replace('"form": "merged"', '"form": "os.system"'))
    assert "names no form of a network, but 'os.system'" in ended(rlr_eval("verify", "LOW/forms/merged"), 2).stderr
    (runs / "LOW/forms/merged").rename(runs / "moved")
    assert "put it back to RUN/forms/FORM" in ended(rlr_eval("verify", "moved"), 2).stderr
