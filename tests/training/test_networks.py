"""Runs of networks that functions of one's own make."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from robust_lowrank import checkpoint
from robust_lowrank.data import load
from robust_lowrank.errors import UserError
from robust_lowrank.records import RunFiles, RunRecord, read_record
from robust_lowrank.training import Progress, TrainConfig, load_network, parse_config, train
from robust_lowrank.training.networks import described
from tests.training.conftest import Small

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8 * 64, classes)

    def forward(self, x):
        return self.fc(torch.ACTIVATION(self.norm(self.conv(x))).flatten(1))

def net(num_classes):
    return Net(num_classes)
"""
numbers = itertools.count()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write the code of a network into the current directory; return its name, a new one where a module is imported once."""
    monkeypatch.chdir(tmp_path)
    module = f"nets_{next(numbers)}"

    def put(activation: str = "relu", more: str = "") -> str:
        sys.modules.pop(module, None)
        (tmp_path / f"{module}.py").write_text(CODE.replace("ACTIVATION", activation) + more)
        monkeypatch.syspath_prepend(tmp_path / "nowhere")  # which forgets what was found in directories
        return f"{module}:net"

    return put


def config_of(small: Small, source: str, **tables: object) -> TrainConfig:
    return small(model={"name": source}, method={"name": "condlr", "exclude": ["fc"]}, **tables)


def test_a_run_is_read_again(write: Callable[..., str], small: Small, tmp_path: Path) -> None:
    config = config_of(small, write())
    run = train(config, tmp_path / "run")
    assert run.record.model == config.model.name
    assert (run.record.input_shape, len(run.record.classes)) == ((1, 8, 8), 10)
    state = torch.get_rng_state()
    network = load_network(run.path)
    assert torch.equal(state, torch.get_rng_state())
    assert checkpoint.digest(network) == run.record.hashes["weights"]
    digits = load("digits").first(test=100)
    assert float((network(digits.test_x).argmax(1) == digits.test_y).float().mean()) == pytest.approx(run.record.test_accuracy)
    assert train(config, tmp_path / "run").record == run.record


def test_weights_depend_on_the_seed(write: Callable[..., str], small: Small, tmp_path: Path) -> None:
    source = write()
    starts = [
        train(config_of(small, source, seed=seed), tmp_path / str(number)).spectra.query("epoch == 0")["sigma_max"].tolist()
        for number, seed in enumerate((3, 3, 4))
    ]
    assert starts[0] == starts[1] != starts[2]


def test_other_code_with_the_same_weights_is_refused(write: Callable[..., str], small: Small, tmp_path: Path) -> None:
    config = config_of(small, write())
    train(config, tmp_path / "run")
    write("sigmoid")
    with pytest.raises(UserError, match=r"other answers, .*: its code has changed since"):
        train(config, tmp_path / "run")
    write(
        more="\nold = net\ndef net(num_classes):\n    made = old(num_classes)\n    made.more = nn.Linear(2, 2)\n    return made\n"
    )
    with pytest.raises(UserError, match=r"does not fit this network: more\.bias, more\.weight\nThe network is made by"):
        load_network(tmp_path / "run")


def test_an_interrupted_training_does_not_go_on_with_other_code(write: Callable[..., str], small: Small, tmp_path: Path) -> None:
    config = config_of(small, write())

    def stop(progress: Progress) -> None:
        if progress.metrics is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=stop)
    write("sigmoid")
    with pytest.raises(UserError, match="its code has changed since"):
        train(config, tmp_path / "run")
    write()
    resumed, whole = train(config, tmp_path / "run"), train(config, tmp_path / "whole")
    assert resumed.record.hashes["weights"] == whole.record.hashes["weights"]


def test_a_network_that_does_not_fit_leaves_nothing(write: Callable[..., str], small: Small, tmp_path: Path) -> None:
    source = write(more="\ndef seven():\n    return Net(7)\n").replace(":net", ":seven")
    with pytest.raises(UserError, match="logits of 7 classes"):
        train(config_of(small, source), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_normalised_inputs_are_part_of_the_run(write: Callable[..., str], small: Small, tmp_path: Path) -> None:
    config = small(model={"name": write(), "mean": [0.3], "std": [0.5]}, method={"name": "condlr", "exclude": [r"1\.fc"]})
    run = train(config, tmp_path / "run")
    network = load_network(run.path)
    assert (float(network[0].mean), float(network[0].std)) == pytest.approx((0.3, 0.5))
    assert run.record.config["model"] == {"name": config.model.name, "mean": [0.3], "std": [0.5]}
    assert TrainConfig.from_record(run.record.config).model == config.model


def test_an_older_record_has_the_shape_and_classes_of_its_data(small: Small, tmp_path: Path) -> None:
    run = train(small(), tmp_path / "run")
    older = read_record(RunFiles(run.path).record, RunRecord).model_copy(update={"input_shape": None})
    assert described(older)[:2] == described(run.record)[:2]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "lenet"}, "did you mean 'lenet5'.* one of your own is module:function"),
        ({"name": "nets:"}, "not of the form module:function"),
        ({"name": "cnn", "mean": [0.5]}, "mean and std go together"),
    ],
)
def test_names_that_are_none(model: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config({"model": model}, source="test")
