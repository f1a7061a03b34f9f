"""`train` under torchrun: several processes train one network, and one of them writes it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from robust_lowrank import records, training
from robust_lowrank.jobs.launched import joined, own_directory
from robust_lowrank.layers import named_factored_layers
from tests.cli.test_bench import command

Command = Callable[..., Result]
TRAIN = ("train", "--data", "digits", "--model", "mlp", "--rank", 0.5, "--train-examples", 240, "--batch-size", 40)


def launched(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--no-python"]
    return subprocess.run([*launcher, *command(*arguments)], capture_output=True, text=True, check=False)


def distance(one: Path, other: Path) -> float:
    """Return the largest difference between the weights of two runs."""
    networks = [dict(named_factored_layers(training.load_network(run))) for run in (one, other)]
    weights = [{name: layer.dense_weight().detach() for name, layer in network.items()} for network in networks]
    return max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])


@pytest.mark.slow
def test_processes_train_the_network_of_one(rlr_eval: Command, here: Path) -> None:
    options = (*TRAIN, "--method", "dlrt", "--epochs", 2)
    assert rlr_eval(*options, "--out", "alone").exit_code == 0
    done = launched(2, *options, "--out", "several")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1 and done.stderr.count("epoch 2 of 2") == 1
    alone, several = (records.read_run(Path(run)) for run in ("alone", "several"))
    assert abs(alone.metrics["train_loss"] - several.metrics["train_loss"]).max() < 1e-4
    assert abs(alone.metrics["train_accuracy"] - several.metrics["train_accuracy"]).max() < 0.01
    assert distance(Path("alone"), Path("several")) < 1e-3
    assert {path.name for path in here.iterdir()} == {"alone", "several"}
    again = launched(2, *options, "--out", "several")
    assert again.returncode == 0 and "epoch" not in again.stderr


@pytest.mark.slow
def test_a_training_goes_on_in_another_number_of_processes(rlr_eval: Command, here: Path) -> None:
    options = (*TRAIN, "--method", "dlrt", "--epochs", 3)
    assert rlr_eval(*options, "--out", "alone").exit_code == 0
    program = (
        "import os, robust_lowrank.training.trainer as t; from robust_lowrank.cli import main; keep = t.TrainState.keep\n"
        "def kept(self):\n keep(self)\n if self.done == 1: os._exit(7)\n"
        "t.TrainState.keep = kept; main()"
    )
    stopped = subprocess.run([sys.executable, "-c", program, *map(str, options), "--out", "several"], check=False)
    assert stopped.returncode == 7 and records.read_record(Path("several/run.json"), records.RunRecord).epochs_done == 1
    done = launched(3, *options, "--out", "several")
    assert done.returncode == 0, done.stderr
    assert "epoch 2 of 3" in done.stderr and "epoch 1 of 3" not in done.stderr
    assert distance(Path("alone"), Path("several")) < 1e-3


@pytest.mark.slow
def test_what_the_first_process_is_refused_is_said_once(here: Path) -> None:
    options = (*TRAIN, "--method", "condlr", "--epochs", 1)
    small = launched(3, *options, "--batch-size", 2, "--out", "small")
    assert small.returncode != 0 and small.stderr.count("cannot share batches of 2") == 1
    assert not (here / "small").exists()
    (here / "run").mkdir()
    with records.writing(here / "run"):
        held = launched(2, *options, "--out", "run")
    assert held.returncode != 0 and held.stderr.count("is being written by process") == 1


def test_one_process_joins_nobody(tmp_path: Path) -> None:
    with joined() as first, own_directory(tmp_path / "run") as place:
        assert first and place == tmp_path / "run" and not torch.distributed.is_initialized()
