import dataclasses
import json
import math
import os
from importlib import metadata
from pathlib import Path

import pandas as pd
import pytest
import torch

from robust_lowrank import Monitor, checkpoint, data, records
from robust_lowrank.data.catalogue import DATASETS
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.training import Progress, load_network, train
from robust_lowrank.training.loop import Examples, accuracy

from .conftest import Small

CONDLR = {"name": "condlr", "tau": 0.1, "rank": 0.25}


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_run_directory_is_complete(small: Small, tmp_path: Path) -> None:
    run = train(small(method=CONDLR), tmp_path / "run", command="rlr-eval train")
    written = ["metrics.parquet", "model.safetensors", "operators.parquet", "run.json", "spectra.parquet"]
    assert sorted(files(tmp_path / "run")) == written
    assert run.operators is not None
    assert tuple(run.operators.columns) == records.OPERATORS
    assert run.operators["layer"].tolist() == ["conv1", "conv2", "fc1", "fc2"]
    assert run.operators["sigma_max"].tolist() == pytest.approx(run.spectra.query("epoch == 2")["sigma_max"].tolist(), rel=1e-5)
    record = run.record
    assert (record.status, record.epochs_done, record.command, record.seed) == ("complete", 2, "rlr-eval train", 0)
    assert (record.label, record.method, record.model, record.data) == ("CondLR τ=0.1", "condlr", "cnn", "digits")
    assert record.kept_dense.keys() == {"fc2"}
    assert tuple(run.metrics.columns) == records.METRICS
    assert run.metrics["epoch"].tolist() == [1, 2]
    assert run.metrics["step"].tolist() == [3, 6]
    assert tuple(run.spectra.columns) == records.SPECTRA
    assert sorted(set(run.spectra["epoch"])) == [0, 1, 2]
    assert run.spectra.groupby("epoch")["layer"].apply(list).tolist() == [["conv1", "conv2", "fc1", "fc2"]] * 3
    assert run.spectra.query("factored")["cond"].max() <= 1.1 * (1 + 1e-4)
    assert record.parameters.removed == pytest.approx(
        1
        - run.spectra.query("epoch == 2 and factored")["params"].sum()
        / (run.spectra.query("epoch == 2 and factored")["params_dense"].sum())
    )


def test_the_record_names_what_was_trained_and_tested_on(small: Small, tmp_path: Path) -> None:
    run = train(small(), tmp_path / "run")
    digits = data.load("digits")
    assert run.record.hashes["train"] == data.digest(digits.train_images[:192], digits.train_y[:192])
    assert run.record.hashes["test"] == data.digest(digits.test_images[:100], digits.test_y[:100])
    assert run.record.hashes["weights"] == checkpoint.digest(load_network(run.path))
    assert run.record.versions["torch"] == metadata.version("torch")


@pytest.mark.parametrize("method", [{"name": "dense"}, CONDLR, {"name": "tdlrt", "tol": 0.3}, {"name": "vanilla"}])
def test_the_network_comes_back_as_it_was_tested(method: dict, small: Small, tmp_path: Path) -> None:
    run = train(small(method=method), tmp_path / "run")
    network = load_network(run.path)
    assert not network.training
    assert bool(list(named_factored_layers(network))) == (method["name"] != "dense")
    digits = data.load("digits")
    assert accuracy(network, Examples(digits.test_images[:100], digits.test_y[:100])) == run.record.test_accuracy
    assert run.record.classes == [str(number) for number in range(10)]


@pytest.mark.parametrize("method", [{"name": "dense"}, CONDLR, {"name": "dlrt", "tol": 0.2}])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(method: dict, small: Small, tmp_path: Path) -> None:
    digests = [
        train(small(method=method, seed=seed), tmp_path / f"run{i}").record.hashes["weights"] for i, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_the_start_of_the_factors_is_the_one_asked_for(small: Small, tmp_path: Path) -> None:
    unbounded = {"name": "condlr", "tau": math.inf}
    conds = {
        start: train(small(method=unbounded | {"init": start}), tmp_path / start)
        .spectra.query("epoch == 0 and factored")["cond"]
        .max()
        for start in ("gaussian", "kaiming")
    }
    assert conds["kaiming"] < 2 < 10 < conds["gaussian"]


def test_the_random_state_of_the_caller_is_left_as_found(small: Small, tmp_path: Path) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    train(small(), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_images_are_the_last_and_not_trained_on(small: Small, tmp_path: Path) -> None:
    run = train(small(data={"validation_examples": 50, "train_examples": None}), tmp_path / "run")
    digits = data.load("digits")
    last = Examples(digits.train_images[-50:], digits.train_y[-50:])
    assert run.metrics["validation_accuracy"].iloc[-1] == accuracy(load_network(run.path), last)
    assert run.record.hashes["train"] == data.digest(digits.train_images[:-50], digits.train_y[:-50])


def test_without_validation_images_there_is_no_figure(small: Small, tmp_path: Path) -> None:
    assert train(small(), tmp_path / "run").metrics["validation_accuracy"].isna().all()


def test_progress_tells_every_step_and_epoch(small: Small, tmp_path: Path) -> None:
    seen: list[Progress] = []
    run = train(small(), tmp_path / "run", progress=seen.append)
    assert [p.step for p in seen if p.metrics is None] == [1, 2, 3, 4, 5, 6]
    assert {p.steps for p in seen} == {6}
    epochs = [p.metrics for p in seen if p.metrics is not None]
    assert pd.DataFrame(epochs)["train_loss"].tolist() == run.metrics["train_loss"].tolist()


def test_a_complete_run_is_returned_untouched(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = train(small(), out)
    before = files(out)
    seen: list[Progress] = []
    again = train(small(data={"data_dir": str(tmp_path)}), out, progress=seen.append)
    assert again.record == first.record
    assert files(out) == before
    assert not seen


def test_an_interrupted_run_goes_on_and_loses_its_results(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    whole = train(small(), tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise Stopped

    with pytest.raises(Stopped):
        train(small(), out, progress=stop)
    partial = records.read_run(out)
    assert (partial.record.status, partial.record.epochs_done, len(partial.metrics)) == ("running", 1, 1)
    assert partial.record.hashes["weights"] == checkpoint.digest(load_network(out))
    (out / "results" / "quick").mkdir(parents=True)
    (out / "results" / "quick" / "result.json").write_text("{}")
    run = train(small(), out)
    assert run.record.hashes["weights"] == whole.record.hashes["weights"]
    assert not (out / "results").exists()


def test_a_complete_run_with_other_weights_starts_over(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = train(small(), out)
    network = load_network(out)
    next(network.parameters()).data.add_(1)
    checkpoint.save(network, out / "model.safetensors")
    assert train(small(), out).record.hashes == run.record.hashes
    assert checkpoint.digest(load_network(out)) == run.record.hashes["weights"]


def test_another_run_in_the_directory_is_left_alone(small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small(), out)
    before = files(out)
    with pytest.raises(UserError, match=r"holds another run: its training\.lr is 0\.05, not 0\.1"):
        train(small(training={"lr": 0.1}), out)
    assert files(out) == before


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_anything_else_in_the_way_is_left_alone(kind: str, small: Small, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is a file|is not empty and not a run directory"):
        train(small(), out)
    assert (out if kind == "file" else out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"method": {"name": "condlr", "rank": 999}},
            "conv1: at rank 9 its thin layers would hold 225 numbers, its weight holds 144",
        ),
        ({"method": {"name": "condlr", "exclude": ["nothing"]}}, "exclude .* matches no layer"),
        ({"data": {"train_examples": 1298}}, "too few for train_examples = 1298"),
        ({"data": {"validation_examples": 1297, "train_examples": None}}, "too few for .* validation_examples = 1297"),
        ({"data": {"test_examples": 501}}, "501 cannot be taken"),
        ({"model": {"name": "lenet5"}}, "lenet5 needs images of 28 x 28, not 8 x 8"),
        ({"data": {"name": "mnist", "data_dir": "/nowhere"}}, "/nowhere does not exist"),
    ],
)
def test_bad_input_writes_nothing(tables: dict, message: str, small: Small, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(small(**tables), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pixels_that_are_nan_write_nothing(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = DATASETS["digits"]

    def damaged(data_dir: Path, *, download: bool) -> data.Dataset:
        digits = original.load(data_dir, download=download)
        digits.train_images[2, 0, 0, 0] = float("nan")
        return dataclasses.replace(digits)

    monkeypatch.setitem(DATASETS, "digits", dataclasses.replace(original, load=damaged))
    with pytest.raises(UserError, match="image 2 has a pixel that is NaN"):
        train(small(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_keeps_its_last_sound_epoch(small: Small, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training stopped in epoch 1"):
        train(small(training={"lr": 1e6, "schedule": "constant"}), tmp_path / "run")
    run = records.read_run(tmp_path / "run")
    assert (run.record.status, run.record.epochs_done) == ("running", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "run.json").unlink(), "is not a run directory"),
        (lambda out: (out / "model.safetensors").unlink(), "is missing"),
        (lambda out: (out / "model.safetensors").write_bytes(b"weights"), "is not a safetensors file"),
        (lambda out: (out / "run.json").write_text("{}"), "cannot be read"),
    ],
)
def test_a_damaged_run_is_named(change, message: str, small: Small, tmp_path: Path) -> None:
    out = train(small(training={"epochs": 1}), tmp_path / "run").path
    change(out)
    with pytest.raises(UserError, match=message):
        load_network(out)


def test_a_configuration_of_another_version_is_named(small: Small, tmp_path: Path) -> None:
    out = train(small(training={"epochs": 1}), tmp_path / "run").path
    record = json.loads((out / "run.json").read_text())
    record["config"]["training"]["warmup"] = 3
    (out / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="no configuration that this version can read"):
        load_network(out)


@pytest.mark.slow
def test_the_digits_are_learnt_in_seconds(small: Small, tmp_path: Path) -> None:
    config = small(data={"train_examples": None, "test_examples": None}, training={"epochs": 20, "batch_size": 32, "lr": 0.1})
    run = train(config, tmp_path / "run")
    assert run.record.test_accuracy is not None
    assert run.record.test_accuracy > 0.965


@pytest.mark.slow
def test_resnet20_learns_from_real_photographs(small: Small, tmp_path: Path) -> None:
    directory = os.environ.get("RLR_TEST_CIFAR10")
    if directory is None:
        pytest.skip("needs CIFAR-10: set RLR_TEST_CIFAR10 to the directory that holds it")
    config = small(
        data={"name": "cifar10", "data_dir": directory, "train_examples": 2000, "test_examples": 500},
        model={"name": "resnet20"},
        method=CONDLR,
        training={"epochs": 3, "batch_size": 100, "lr": 0.1},
    )
    run = train(config, tmp_path / "run")
    assert run.record.test_accuracy is not None
    assert run.record.test_accuracy > 0.25


def test_the_monitor_ends_an_epoch_with_its_spectra_and_changes_no_weight(small: Small, tmp_path: Path) -> None:
    run = train(small(method=CONDLR, monitor={"every": 3, "dense_every": 3}), tmp_path / "run")
    monitor = records.read_frame(tmp_path / "run" / "monitor.parquet")
    assert tuple(monitor.columns) == records.MONITOR
    spectra = run.spectra.query("epoch > 0")
    assert monitor["step"].tolist() == (3 * spectra["epoch"]).tolist()
    for column in ("layer", "kind", "factored", "rank"):
        assert monitor[column].tolist() == spectra[column].tolist()
    for column in ("sigma_max", "sigma_min", "cond", "stable_rank"):
        assert monitor[column].tolist() == pytest.approx(spectra[column].tolist(), rel=1e-5)
    plain = train(small(method=CONDLR), tmp_path / "plain")
    assert run.record.hashes["weights"] == plain.record.hashes["weights"]
    assert "monitor" not in plain.record.config
    assert not (tmp_path / "plain" / "monitor.parquet").exists()


def test_progress_carries_the_monitors_line(small: Small, tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(small(method=CONDLR, monitor={"every": 2}), tmp_path / "run", progress=seen.append)
    lines = [progress.conditioning for progress in seen if progress.metrics is None]
    assert lines[0] == ""
    assert all(line.startswith("cond ≤ ") for line in lines[1:])


def test_alerts_reach_the_caller_once(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Progress] = []
    monkeypatch.setattr(Monitor.__init__, "__kwdefaults__", Monitor.__init__.__kwdefaults__ | {"warn": {"cond": 1.0}})
    train(small(method={"name": "dlrt"}, monitor={"every": 1}), tmp_path / "run", progress=seen.append)
    told = [alert for progress in seen for alert in progress.alerts]
    assert len(told) == 3
    assert told[0].startswith("step 1: cond of layer 'conv1' is")
