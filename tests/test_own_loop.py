"""An own network, trained in an own loop, goes through every command; and the same network is trained by name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_digits

NETWORK = """
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=4), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10),
    )
"""
LOOP = """
import torch
import robust_lowrank as rlr
from own_net import net

torch.manual_seed(0)
digits = rlr.data.load("photos")
x, y = digits.train_x, digits.train_y
model = net()
rlr.compress(model, method=rlr.CondLR(tau=0.5), rank=0.5, exclude=["10"], example_input=x[:2])
optimizer = rlr.LowRankOptimizer(model, torch.optim.Adam, lr=0.005)
with rlr.record("MINE", model, optimizer, data="photos") as run:
    for epoch in range(run.epochs_done, 4):
        total, right = 0.0, 0
        for index in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            logits = model(x[index])
            loss = torch.nn.functional.cross_entropy(logits, y[index])
            loss.backward()
            optimizer.step()
            total, right = total + loss.detach() * len(index), right + (logits.argmax(1) == y[index]).sum()
        run.epoch(loss=total / len(x), accuracy=right / len(x))
"""


def run(folder: Path, *command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run([sys.executable, "-W", "error", *command], check=False, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rlr_eval(folder: Path, *arguments: str) -> str:
    return run(folder, "-c", "from robust_lowrank.cli import main; main()", *arguments)


def photographs(folder: Path) -> None:
    """Write digits as images, a directory a class."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / ("train" if number < 1300 else "test") / f"digit {label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255 / 16).round().astype("uint8")).save(path)


@pytest.mark.slow
def test_an_own_loop_goes_through_every_command(tmp_path: Path) -> None:
    assert len(LOOP.strip().splitlines()) <= 25
    photographs(tmp_path / "photos")
    (tmp_path / "own_net.py").write_text(NETWORK)
    (tmp_path / "loop.py").write_text(LOOP)
    run(tmp_path, "loop.py")
    (tmp_path / "own_net.py").rename(tmp_path / "elsewhere.txt")  # nothing of it is needed from here on

    shown = json.loads(rlr_eval(tmp_path, "show", "MINE", "--json"))
    assert (shown["origin"], shown["faults"]) == ("recorded", [])
    assert shown["record"]["test_accuracy"] > 0.9
    assert {layer["layer"]: layer["factored"] for layer in shown["layers"]} == {
        "0": True,
        "2.weight.0": True,
        "2.weight.1": True,
        "2.weight.2": True,
        "2.weight.3": True,
        "7": True,
        "10": False,
    }
    assert max(layer["cond"] for layer in shown["layers"] if layer["factored"]) <= 1.5 + 1e-4
    rlr_eval(tmp_path, "condition", "MINE", "--out", "condition")
    attack = ("--suite", "quick", "--n", "20", "--eps", "0.1", "--json")
    (attacked,) = json.loads(rlr_eval(tmp_path, "attack", "MINE", *attack))
    clean, *_, worst = attacked["result"]["accuracies"]
    assert clean["value"] > 0.8 > worst["value"]
    (certified,) = json.loads(rlr_eval(tmp_path, "certify", "MINE", "--n", "20", "--json"))
    assert certified["certificate"]["bound"] > 0
    assert json.loads(rlr_eval(tmp_path, "verify", "MINE", "--json"))["sound"]
    for form in ("dense", "torch-export", "int8"):
        exported = json.loads(rlr_eval(tmp_path, "export", "MINE", "--to", form, "--json"))
        assert exported["flipped"] <= (0 if form != "int8" else 0.1 * exported["examples"])
    deployed = json.loads(rlr_eval(tmp_path, "attack", "MINE", *attack, "--form", "merged,onnx"))["forms"]
    assert [row["lost"] for row in deployed] == [[]] * 4
    rlr_eval(tmp_path, "report", "MINE", "--out", "report")
    assert (tmp_path / "report/report.html").is_file()
    assert (tmp_path / "condition/condition.html").is_file()

    (tmp_path / "elsewhere.txt").rename(tmp_path / "own_net.py")
    options = ("--method", "condlr", "--tau", "0.5", "--rank", "0.5", "--epochs", "3", "--lr", "0.05", "--exclude", "10")
    rlr_eval(tmp_path, "train", "--model", "own_net:net", "--data", "photos", *options, "--out", "NAMED")
    named = json.loads(rlr_eval(tmp_path, "show", "NAMED", "--json"))
    assert named["origin"] == "trained"
    assert [layer["layer"] for layer in named["layers"]] == [layer["layer"] for layer in shown["layers"]]
    assert named["record"]["hashes"]["test"] == shown["record"]["hashes"]["test"]
    rlr_eval(tmp_path, "attack", "NAMED", *attack)
    for form in ("factors", "onnx"):
        assert json.loads(rlr_eval(tmp_path, "export", "NAMED", "--to", form, "--json"))["flipped"] == 0
    rlr_eval(tmp_path, "report", "MINE", "NAMED", "--out", "both")
