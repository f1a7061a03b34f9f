"""`attack --model`: networks from elsewhere, and the reports on what was found."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import Result

from robust_lowrank import data, records
from tests.hostile import marker, programs

Command = Callable[..., Result]

NETWORKS = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))

def probable():
    return nn.Sequential(small(), nn.Softmax(dim=1))

class Step(nn.Module):
    def forward(self, x):
        return torch.tensor(self.weight.numpy() @ x.detach().flatten(1).numpy().T).T

def closed():
    step = Step()
    step.register_buffer("weight", torch.eye(10, 64))
    return step
"""


@pytest.fixture
def elsewhere(runs: Path) -> Path:
    """A function in `networks.py`, its weights, a TorchScript file, and examples in `.npz` files, right and wrong."""
    (runs / "networks.py").write_text(NETWORKS, encoding="utf-8")
    digits = data.load("digits")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(digits.train_x), digits.train_y).backward()
        optimizer.step()
    torch.save(network.state_dict(), runs / "small.pth")
    torch.save({name: tensor + 1 for name, tensor in network.state_dict().items()}, runs / "other.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network.eval(), digits.test_x[:2]).save(str(runs / "small.ts"))
    x, y = digits.test_x[:12].numpy(), digits.test_y[:12].numpy()
    np.savez(runs / "examples.npz", x=x, y=y)
    np.savez(runs / "normalised.npz", x=(x - 0.3) / 0.35, y=y)
    np.savez(runs / "float_labels.npz", x=x, y=y.astype("float32"))
    np.savez(runs / "beyond.npz", x=x, y=y + 1)
    return runs


SMALL = ("--model", "networks:small", "--weights", "small.pth")


NOISE = """
eps = [0.1]
[[attacks]]
attack = "random-noise"
[[attacks]]
attack = "square"
queries = 20
"""


@pytest.mark.parametrize(
    ("options", "suite", "layers"),
    [
        ((*SMALL, "--data", "digits"), "quick", ["1", "3"]),
        (("--model", "small.ts", "--trust-code", "--data", "examples.npz", "--label", "Script"), "quick", []),
        (("--model", "networks:closed", "--data", "examples.npz"), "noise", []),
    ],
)
def test_it_is_attacked(rlr_eval: Command, elsewhere: Path, options: tuple[str, ...], suite: str, layers: list[str]) -> None:
    (elsewhere / "noise.toml").write_text(NOISE, encoding="utf-8")
    chosen = f"{suite}.toml" if suite == "noise" else suite
    result = rlr_eval("attack", *options, "--suite", chosen, "--n", 12, "--out", "OUT")
    assert result.exit_code == 0, result.stderr
    run = records.read_run(Path("OUT"))
    assert (run.record.method, run.record.model) == ("foreign", options[1])
    assert run.record.label == ("Script" if "Script" in options else options[1])
    assert run.metrics.empty
    assert list(run.spectra["layer"]) == layers
    assert run.results[suite].record.accuracies[0].total == 12


@pytest.mark.slow
@pytest.mark.parametrize("model", [SMALL, ("--model", "small.ts", "--trust-code")])
def test_it_is_reported_alone_and_beside_a_trained_run(rlr_eval: Command, elsewhere: Path, model: tuple[str, ...]) -> None:
    assert rlr_eval("attack", *model, "--data", "examples.npz", "--suite", "quick", "--out", "OUT").exit_code == 0
    assert rlr_eval("attack", "LOW", "--suite", "quick", "--n", 12).exit_code == 0
    run, label = records.read_run(Path("OUT")), model[1]
    for others in ((), ("LOW",)):
        report = rlr_eval("report", "OUT", *others, "--out", "R")
        assert report.exit_code == 0, report.stderr
        text = (elsewhere / "R/report.md").read_text(encoding="utf-8")
        rows = [line for line in text.splitlines() if line.startswith("| ") and "Wilson" not in line]
        assert not [row for row in rows if "nan" in row.split()]
        overview = [row for row in rows[2:] if row.startswith((f"| {label} |", "| CondLR"))][: 1 + len(others)]
        assert len(overview) == 1 + len(others), text
        assert ("| – |" in overview[0]) == run.spectra.empty
        condition = rlr_eval("condition", "OUT", *others, "--out", "C", "--json")
        if run.spectra.empty and not others:
            assert condition.exit_code == 2
            assert "shows no layers" in condition.stderr
        else:
            assert condition.exit_code == 0, condition.stderr


def test_a_second_attack_keeps_the_result(rlr_eval: Command, elsewhere: Path) -> None:
    options = ("attack", *SMALL, "--data", "examples.npz", "--suite", "quick", "--out", "OUT")
    assert rlr_eval(*options).exit_code == 0
    written = (elsewhere / "OUT/results/quick/result.json").stat().st_mtime_ns
    assert rlr_eval(*options).exit_code == 0
    assert (elsewhere / "OUT/results/quick/result.json").stat().st_mtime_ns == written


OUT = ("--suite", "quick", "--out", "OUT")
WRONG = {
    "probabilities": (("--model", "networks:probable", "--data", "examples.npz", *OUT), "returns probabilities"),
    "random weights": (("--model", "networks:small", "--data", "examples.npz", *OUT), "other weights each time"),
    "normalised": ((*SMALL, "--data", "normalised.npz", *OUT), "look normalised"),
    "float labels": ((*SMALL, "--data", "float_labels.npz", *OUT), "labels are integers"),
    "labels beyond": ((*SMALL, "--data", "beyond.npz", *OUT), "has the label 10"),
    "wide eps": ((*SMALL, "--data", "examples.npz", *OUT, "--eps", "1.5"), "eps 1.5"),
    "no data": ((*SMALL, *OUT), "give --data"),
    "no out": ((*SMALL, "--data", "digits"), "give --out"),
    "with runs": (("LOW", *SMALL, "--data", "digits", *OUT), "no run directory"),
    "weights alone": (("LOW", "--weights", "small.pth"), "--weights belongs to"),
    "std alone": (("LOW", "--std", "0.3"), "--std belongs to"),
    "no gradients": (("--model", "networks:closed", "--data", "examples.npz", *OUT), "no gradients"),
    "no workers": ((*SMALL, "--data", "examples.npz", *OUT, "--workers", "0"), "workers = 0"),
    "matrix": ((*SMALL, "--data", "examples.npz", *OUT, "--matrix"), "--matrix compares"),
    "out of a trained run": ((*SMALL, "--data", "examples.npz", "--out", "LOW"), "LOW holds another network"),
    "out with other files": ((*SMALL, "--data", "examples.npz", "--out", "thesis"), "thesis is not empty"),
    "other weights": (
        ("--model", "networks:small", "--weights", "other.pth", "--data", "examples.npz", "--out", "MINE"),
        "MINE holds",
    ),
}


@pytest.fixture
def places(rlr_eval: Command, elsewhere: Path) -> Path:
    (elsewhere / "thesis").mkdir()
    (elsewhere / "thesis/text").write_text("years of work")
    return elsewhere


def files(place: Path) -> dict[Path, int]:
    """Return all files with their times but what Python itself compiled."""
    return {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_bad_input(rlr_eval: Command, places: Path) -> None:
    assert rlr_eval("attack", *SMALL, "--data", "examples.npz", "--suite", "quick", "--out", "MINE").exit_code == 0
    for name, (options, said) in WRONG.items():
        before = files(places)
        result = rlr_eval("attack", *options)
        assert result.exit_code == 2, name
        assert said in result.stderr, name
        assert 1 <= len(result.stderr.strip().splitlines()) <= 3, name
        assert not result.stdout, name
        assert files(places) == before, name


def test_code_in_files_needs_trust(rlr_eval: Command, elsewhere: Path) -> None:
    data = ("--data", "examples.npz", "--n", 4)
    assert rlr_eval("attack", "--model", "small.ts", "--trust-code", *data, "--suite", "quick", "--out", "OUT").exit_code == 0
    hostile = [make(elsewhere) for make in (programs.make_expression, programs.make_guard, programs.make_writing_script)]
    for model in ("small.ts", *hostile):
        commands = [("attack", "--out", "NEW", *data), ("forecast", *data), ("verify", "OUT", *data[:2])]
        for command, *options in commands:
            result = rlr_eval(command, *options, "--model", model)
            assert (result.exit_code, result.stdout) == (2, ""), result.stderr
            assert "--trust-code" in result.stderr
            assert len(result.stderr.strip().splitlines()) <= 3
    assert not marker(elsewhere).exists()
    assert not Path("NEW").exists()
    assert rlr_eval("forecast", "--model", "small.ts", "--trust-code", *data).exit_code == 0
    assert rlr_eval("verify", "OUT", "--model", "small.ts", "--trust-code", *data[:2]).exit_code == 0


def test_a_plain_program_needs_no_trust(rlr_eval: Command, elsewhere: Path) -> None:
    model = str(programs.make_plain(elsewhere))
    result = rlr_eval("attack", "--model", model, "--data", "examples.npz", "--suite", "quick", "--n", 4, "--out", "OUT")
    assert result.exit_code == 0, result.stderr
    assert records.read_run(Path("OUT")).record.model == model
