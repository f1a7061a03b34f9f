"""An interrupted training goes on as if nothing had happened: bit for bit, with one history."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from robust_lowrank import checkpoint, records
from robust_lowrank.training import Progress, TrainConfig, load_network, parse_config, train
from robust_lowrank.training.resume import pack, unpack

from .conftest import SMALL, Small

ADAMW = {"optimizer": "adamw", "lr": 0.005, "weight_decay": 0.01}
MOMENTUM = {"momentum": 0.9, "lr": 0.02}
DLRT = {"name": "dlrt", "tol": 0.3, "step": "amortised", "window": 2}
WAYS: dict[str, dict[str, Any]] = {
    "dense, momentum": {"training": MOMENTUM},
    "dense, adamw": {"training": ADAMW},
    "condlr, cycled momentum": {"method": {"name": "condlr"}, "training": {"cycle_momentum": True, "lr": 0.02}},
    "condlr, adamw, cosine": {"method": {"name": "condlr"}, "training": ADAMW | {"schedule": "cosine"}},
    "dlrt, amortised, momentum": {"method": DLRT, "training": MOMENTUM | {"schedule": "constant"}},
    "dlrt, amortised, adamw": {"method": DLRT, "training": ADAMW | {"schedule": "multistep", "milestones": [2]}},
    "geolora, momentum": {"method": {"name": "geolora", "tol": 0.3}, "training": MOMENTUM},
    "geolora, adamw": {"method": {"name": "geolora", "tol": 0.3}, "training": ADAMW},
    "tdlrt, momentum": {"method": {"name": "tdlrt", "tol": 0.3}, "training": MOMENTUM},
    "vanilla, adversarial": {
        "method": {"name": "vanilla"},
        "training": MOMENTUM | {"adversarial": {"attack": "pgd", "eps": 0.1, "steps": 2}},
    },
    "svd, tuned": {"method": {"name": "svd", "finetune": 2}, "training": MOMENTUM | {"epochs": 1}},
    "spectral clamp": {"method": {"name": "spectral-clamp"}, "training": MOMENTUM},
    "batch statistics": {"model": {"name": "resnet20"}, "data": {"train_examples": 64}, "training": MOMENTUM},
}
SLOW = ("condlr, cycled momentum", "geolora, momentum", "dlrt, amortised, adamw", "tdlrt, momentum", "spectral clamp")
EPOCHS = 3


class Stopped(Exception):
    pass


def stop_at(step: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.step == step and progress.metrics is None:
            raise Stopped

    return stop


def histories(run: records.Run) -> dict[str, pd.DataFrame]:
    frames = {"metrics": run.metrics.drop(columns="seconds"), "spectra": run.spectra}
    if (run.path / "monitor.parquet").exists():
        frames["monitor"] = records.read_frame(run.path / "monitor.parquet")
    return frames


def assert_same(run: records.Run, whole: records.Run) -> None:
    assert run.record.hashes == whole.record.hashes
    assert (run.record.status, run.record.test_accuracy) == ("complete", whole.record.test_accuracy)
    assert run.record.parameters == whole.record.parameters
    assert run.record.kept_dense == whole.record.kept_dense
    assert checkpoint.digest(load_network(run.path)) == whole.record.hashes["weights"]
    assert histories(run).keys() == histories(whole).keys()
    for name, frame in histories(run).items():
        expected = histories(whole)[name]
        for column in frame.columns:
            if column == "singular_values":
                assert [list(values) for values in frame[column]] == [list(values) for values in expected[column]]
            else:
                pd.testing.assert_series_equal(frame[column], expected[column], check_exact=True)
    assert sorted(path.name for path in run.path.iterdir()) == sorted(path.name for path in whole.path.iterdir())


@pytest.mark.parametrize("way", [pytest.param(way, marks=pytest.mark.slow) if way in SLOW else way for way in WAYS])
def test_a_stopped_training_ends_like_one_that_ran_through(way: str, small: Small, tmp_path: Path) -> None:
    tables = dict(WAYS[way])
    tables["training"] = {"epochs": EPOCHS} | tables["training"]
    config = small(monitor={"every": 2, "dense_every": 4}, **tables)
    whole = train(config, tmp_path / "whole")
    steps_per_epoch = int(whole.metrics["step"].iloc[0])
    out = tmp_path / "run"
    for epoch in (1, 2):  # of the last complete one; steps of the next one are lost
        with pytest.raises(Stopped):
            train(config, out, progress=stop_at(epoch * steps_per_epoch + 1))
        assert records.read_run(out).record.epochs_done == epoch
    seen: list[Progress] = []
    run = train(config, out, progress=seen.append)
    assert seen[0].epoch == 3
    assert_same(run, whole)
    assert records.read_frame(out / "monitor.parquet")["step"].is_monotonic_increasing


class Interrupted(NamedTuple):
    """A run stopped in epoch 3, and the one that was not stopped."""

    config: TrainConfig
    out: Path
    whole: records.Run

    def go_on(self) -> int:
        """Go on with it to the same end; return in which epoch."""
        seen: list[Progress] = []
        assert_same(train(self.config, self.out, progress=seen.append), self.whole)
        return seen[0].epoch


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    directory = tmp_path_factory.mktemp("stopped")
    tables = {"method": {"name": "condlr"}, "training": SMALL["training"] | {"epochs": 4}, "monitor": {"every": 2}}
    config = parse_config(SMALL | tables, source="test")
    whole = train(config, directory / "whole")
    with pytest.raises(Stopped):
        train(config, directory / "run", progress=stop_at(7))
    return Interrupted(config, directory / "run", whole)


@pytest.fixture
def interrupted(stopped: Interrupted, tmp_path: Path) -> Interrupted:
    return stopped._replace(out=Path(shutil.copytree(stopped.out, tmp_path / "run")))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "harm",
    [
        lambda out: shutil.rmtree(out / "resume"),
        lambda out: (out / "resume/2/state.json").unlink(),
        lambda out: (out / "resume/2/state.json").write_text("{}"),
        lambda out: (out / "resume/2/state.json").write_text('{"version": 1'),
        lambda out: damage(out / "resume/2/state.safetensors"),
        lambda out: damage(out / "resume/2/model.safetensors"),
        lambda out: (out / "resume/2/model.safetensors").write_bytes(b"half"),
        lambda out: (out / "metrics.parquet").unlink(),
        lambda out: (out / "spectra.parquet").unlink(),
        lambda out: (out / "monitor.parquet").unlink(),
        lambda out: records.write_frame(out / "metrics.parquet", records.read_frame(out / "metrics.parquet")[:1]),
        lambda out: records.write_frame(out / "monitor.parquet", records.read_frame(out / "monitor.parquet")[:-1]),
    ],
)
def test_what_does_not_agree_starts_over(harm: Callable[[Path], None], interrupted: Interrupted) -> None:
    harm(interrupted.out)
    assert interrupted.go_on() == 1


@pytest.mark.parametrize("ahead", ["model.safetensors", "metrics.parquet", "spectra.parquet", "monitor.parquet", "run.json"])
def test_a_kill_between_two_files_of_an_epoch_loses_nothing(ahead: str, interrupted: Interrupted) -> None:
    """The files before the state may be those of a later epoch: here of the end."""
    out, whole = interrupted.out, interrupted.whole.path
    if ahead == "run.json":
        record = json.loads((whole / ahead).read_text())
        (out / ahead).write_text(json.dumps(record | {"status": "running", "epochs_done": 3}))
    else:
        shutil.copy(whole / ahead, out / ahead)
    assert interrupted.go_on() == 3


def test_a_state_of_other_images_is_not_gone_on_from(interrupted: Interrupted) -> None:
    path = interrupted.out / "resume/2/state.json"
    text = json.loads(path.read_text())
    text["record"]["hashes"]["train"] = "0" * 64
    path.write_text(json.dumps(text))
    assert interrupted.go_on() == 1


def test_a_run_keeps_one_state_while_it_lasts_and_none_afterwards(small: Small, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(progress: Progress) -> None:
        if progress.metrics is not None:
            seen.append(sorted(path.name for path in (tmp_path / "run" / "resume").glob("*")))

    train(small(training={"epochs": 3}), tmp_path / "run", progress=look)
    assert seen == [["1"], ["2"], ["2"]]
    assert not (tmp_path / "run" / "resume").exists()


def test_the_state_of_the_caller_is_left_as_found(interrupted: Interrupted) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    train(interrupted.config, interrupted.out)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_packed_comes_back_bit_for_bit() -> None:
    value = {
        0: {"step": torch.tensor(3.0), "buffer": torch.randn(3, 4).T, "on": True, "none": None},
        "groups": [{"betas": (0.9, 0.999), "lr": 0.1 + 0.2, "tau": float("inf")}],
        "bytes": torch.get_rng_state(),
        "empty": {},
    }
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(value, tensors))
    back = unpack(json.loads(text), tensors)
    assert back["groups"] == value["groups"]
    assert back["groups"][0]["betas"] == (0.9, 0.999)
    assert torch.equal(back[0]["buffer"], value[0]["buffer"])
    assert back[0]["buffer"].stride() == value[0]["buffer"].stride()
    assert back[0]["on"] is True
    assert back[0]["none"] is None
    assert torch.equal(back["bytes"], value["bytes"])
    assert back["empty"] == {}


def test_nothing_else_can_be_packed() -> None:
    with pytest.raises(TypeError, match="a ndarray is nothing"):
        pack({"array": np.zeros(2)}, {})


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    options = ["--method", "dlrt", "--tol", "0.3", "--step", "amortised", "--window", "2", "--epochs", "6"]
    options += ["--monitor-every", "5", "--batch-size", "64", "--momentum", "0.9", "--lr", "0.02"]

    def command(out: str) -> list[str]:
        return [
            sys.executable,
            "-c",
            "from robust_lowrank.cli import main; main()",
            "train",
            *options,
            "--out",
            str(tmp_path / out),
        ]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, env=environment, capture_output=True)
    kills = 0
    for epoch in (2, 4):
        process = subprocess.Popen(command("run"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = tmp_path / "run" / "resume" / str(epoch)
        while process.poll() is None and not state.exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    subprocess.run(command("run"), check=True, env=environment, capture_output=True)
    assert_same(records.read_run(tmp_path / "run"), records.read_run(tmp_path / "whole"))
