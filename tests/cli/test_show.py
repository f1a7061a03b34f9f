"""`show`: one run on a screen, whatever kind of run it is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import Result

import robust_lowrank as rlr
from robust_lowrank import export, records
from robust_lowrank.records import RunFiles

Command = Callable[..., Result]


def test_a_trained_run_with_results_and_certificates(rlr_eval: Command, runs: Path) -> None:
    fresh = rlr_eval("show", "LOW").stdout
    assert "Next: rlr-eval attack LOW" in fresh
    assert "Next: rlr-eval certify LOW" in fresh
    rlr_eval("attack", "LOW", "--suite", "quick", "--n", "5")
    rlr_eval("certify", "LOW", "--n", "5")
    result = rlr_eval("show", "LOW")
    assert result.exit_code == 0
    text = result.stdout
    record = records.read_run(Path("LOW")).record
    for said in (
        "CondLR τ=0.1, in LOW",
        "cnn on digits, 1 x 8 x 8, 10 classes; method condlr, seed 0",
        "trained by rlr-eval train: complete, 2 epochs",
        f"Test accuracy {record.test_accuracy:.1%}",
        f"{record.parameters.inference:,} for inference, {record.parameters.dense:,} dense",
        "Every file is as it was written.",
        "Next: rlr-eval verify LOW",
        "Next: rlr-eval report LOW",
    ):
        assert said in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    spectra = records.read_run(Path("LOW")).spectra.query("epoch == 2").set_index("layer")
    for layer, row in spectra.iterrows():
        assert rows[layer][1:3] == [row["kind"], "compressed" if row["factored"] else "dense:"]
        assert rows[layer][-2] == str(row["rank"])
        assert float(rows[layer][-1]) == pytest.approx(row["cond"], rel=1e-3)
    assert rows["quick"][:3] == ["quick", "Linf", "5"]
    assert rows["lipschitz"][1] == "5"
    assert rows["2"][1] == str(int(records.read_run(Path("LOW")).metrics["step"].iloc[-1]))


def test_as_json(rlr_eval: Command, runs: Path) -> None:
    listed = json.loads(rlr_eval("show", "DENSE", "--json").stdout)
    assert (listed["origin"], listed["record"]["label"], listed["faults"]) == ("trained", "Dense", [])
    assert [layer["layer"] for layer in listed["layers"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert [row["epoch"] for row in listed["history"]] == [1, 2]
    assert listed["files"]["run.json"] == Path("DENSE/run.json").stat().st_size


def test_what_is_not_in_order_is_named(rlr_eval: Command, runs: Path) -> None:
    rlr_eval("attack", "LOW", "--suite", "quick", "--n", "5")
    files = RunFiles(Path("LOW"))
    files.metrics.write_bytes(b"no table")
    files.result("quick").verdicts.unlink()
    shutil.copytree("LOW/results", "DENSE/results")
    text = rlr_eval("show", "LOW").stdout
    assert "Not in order: LOW/metrics.parquet is not as it was written" in text
    assert "Not in order: LOW/results/quick/verdicts.parquet is missing" in text
    assert "as it was written." not in text
    assert "DENSE/results/quick is of another network" in rlr_eval("show", "DENSE").stdout


def test_a_run_that_was_stopped(rlr_eval: Command, here: Path) -> None:
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
    with pytest.raises(KeyboardInterrupt), rlr.record("MINE", nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), data=(x, y)) as run:
        run.epoch(loss=0.5, margin=2)
        raise KeyboardInterrupt
    text = rlr_eval("show", "MINE").stdout
    assert "trained by a loop of one's own: NOT COMPLETE, stopped or still running, 1 epoch" in text
    assert "Made by: python " in text
    assert "Next: rlr-eval condition MINE" in text
    assert "Test accuracy" not in text
    lines = text.splitlines()
    (head,) = (number for number, line in enumerate(lines) if "margin" in line)
    assert lines[head].split() == ["epoch", "train", "loss", "seconds", "margin"]
    epoch, loss, _, margin = lines[head + 1].split()
    assert (epoch, loss, margin) == ("1", "0.5", "2")
    RunFiles(Path("MINE")).metrics.unlink()
    stopped_early = rlr_eval("show", "MINE")
    assert stopped_early.exit_code == 0
    assert "metrics.parquet is missing" in stopped_early.stdout


def test_a_network_from_elsewhere(rlr_eval: Command, here: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    export(net, to="torch-export", path=here / "net.pt2", example_input=torch.zeros(2, 1, 8, 8))
    done = rlr_eval("attack", "--model", "net.pt2", "--data", "digits", "--out", "F", "--suite", "quick", "--n", "5")
    assert done.exit_code == 0, done.stderr
    text = rlr_eval("show", "F").stdout
    assert "from elsewhere: complete" in text
    assert "quick" in text
    assert "verify" not in text


def test_of_many_layers_the_worst_are_shown_and_names_are_escaped(rlr_eval: Command, here: Path) -> None:
    layers = [layer for _ in range(20) for layer in (nn.Linear(4, 4), nn.ReLU())]
    x, y = torch.rand(4, 1, 2, 2), torch.arange(4) % 3
    label = "[red]two\x1b[31m\nlines"
    with rlr.record("MINE", nn.Sequential(nn.Flatten(), *layers, nn.Linear(4, 3)), data=(x, y), label=label):
        pass
    text = rlr_eval("show", "MINE").stdout
    assert "the worst 16 of 21" in text
    assert r"[red]two\x1b[31m\nlines, in MINE" in text
    assert "\x1b" not in text
