"""`bench` and `demo`: everything an experiment names, once."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from robust_lowrank import records, training
from robust_lowrank.errors import TrainingError
from robust_lowrank.jobs import load_experiment
from robust_lowrank.jobs.executors.processes import threads_each

Command = Callable[..., Result]


def command(*args: object) -> list[str]:
    return [sys.executable, "-c", "from robust_lowrank.cli import main; main()", *map(str, args)]


def process(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, check=False)


def times(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_bench_trains_attacks_and_reports_and_does_nothing_twice(rlr_eval: Command, here: Path, experiment: Path) -> None:
    result = rlr_eval("bench", experiment, "--workers", 1)
    assert result.exit_code == 0, result.stderr
    out = Path("reports/tiny")
    assert result.stdout.endswith(f"Report: {out / 'report.html'}\n")
    runs = {path.name: records.read_run(path) for path in (out / "runs").iterdir()}
    assert set(runs) == {"dense-seed0", "condlr-rank0.25-seed0"}
    assert all(run.results["quick"].record.accuracies[0].total == 10 for run in runs.values())
    before = times(out / "runs")
    again = rlr_eval("bench", experiment, "--workers", 1)
    assert again.exit_code == 0
    assert "is there already" in again.stderr
    assert "epoch" not in again.stderr
    assert times(out / "runs") == before


@pytest.mark.slow
def test_what_is_lost_or_new_in_an_experiment_is_done_alone(rlr_eval: Command, here: Path, experiment: Path) -> None:
    assert rlr_eval("bench", experiment, "--workers", 1).exit_code == 0
    out = Path("reports/tiny")
    before = times(out / "runs")
    result_of_dense = out / "runs/dense-seed0/results/quick/result.json"
    result_of_dense.unlink()
    experiment.write_text(experiment.read_text() + '[[methods]]\nname = "vanilla"\n')
    third = rlr_eval("bench", experiment, "--workers", 1)
    assert third.exit_code == 0, third.stderr
    touched = {path for path, time in times(out / "runs").items() if before.get(path) != time}
    known = {path.with_name(name) for path in touched for name in ("transfer.parquet", "result.json")} & touched
    known = {
        path for path in known if path.with_name("transfer.parquet") in touched
    }  # what breaks the new network was tried on all
    assert {path.relative_to(out / "runs").parts[0] for path in known} == {
        "dense-seed0",
        "vanilla-rank0.25-seed0",
        "condlr-rank0.25-seed0",
    }
    remade = {path for path in touched if path.name == "verdicts.parquet"}
    assert {path.relative_to(out / "runs").parts[0] for path in remade} == {"dense-seed0", "vanilla-rank0.25-seed0"}
    assert {path.parent.name for path in touched if "dense-seed0" in path.parts} == {"quick"}


@pytest.mark.slow
def test_parallel_processes_give_the_verdicts_of_one(rlr_eval: Command, experiment: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(threads_each(2))
    assert rlr_eval("bench", experiment, "--workers", 1, "--out", "one").exit_code == 0
    torch.set_num_threads(threads)
    done = process("bench", experiment, "--workers", "2", "--out", "two")
    assert done.returncode == 0, done.stderr
    assert "dense-seed0: epoch 1 of 1" in done.stderr
    for name in ("dense-seed0", "condlr-rank0.25-seed0"):
        one, two = (records.read_run(Path(out) / "runs" / name) for out in ("one", "two"))
        assert one.record.hashes == two.record.hashes
        shown = ["example", "verdict", "adversarial_prediction"]
        assert one.results["quick"].verdicts[shown].equals(two.results["quick"].verdicts[shown])


@pytest.mark.slow
def test_a_failure_in_a_worker_ends_the_command(here: Path, experiment: Path) -> None:
    experiment.write_text(experiment.read_text().replace("train_examples = 256", "train_examples = 100000"))
    done = process("bench", experiment, "--workers", "2")
    assert done.returncode == 2
    assert "train_examples = 100000" in done.stderr
    assert len(done.stderr.splitlines()) <= 3
    assert not Path("reports").exists()


@pytest.mark.slow
def test_workers_end_with_the_command(here: Path, experiment: Path) -> None:
    experiment.write_text(experiment.read_text().replace("epochs = 1", "epochs = 100000"))
    with subprocess.Popen(command("bench", experiment, "--workers", 2), stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr is not None
        assert "epoch 1 of 100000" in bench.stderr.readline()
        bench.kill()
        bench.communicate(timeout=30)  # ends when the workers, who write to the same pipe, are gone


def test_the_demo_compares_all_methods_with_a_dense_and_a_plain_network() -> None:
    demo = load_experiment("demo")
    assert [method.name for method in demo.methods] == ["dense", "vanilla", "condlr", "dlrt", "tdlrt", "geolora"]
    assert (demo.data.name, demo.model.name) == ("digits", "cnn")


def test_a_run_that_diverges_does_not_take_the_others_with_it(
    rlr_eval: Command, here: Path, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = training.train

    def diverging(config: training.TrainConfig, out: Path, **options: Any) -> records.Run:
        if config.method.name == "condlr":
            raise TrainingError("training stopped in epoch 1: the loss is nan")
        return train(config, out, **options)

    monkeypatch.setattr(training, "train", diverging)
    result = rlr_eval("bench", experiment, "--workers", 1)
    assert result.exit_code == 1
    assert "1 of 2 runs failed" in result.stderr
    assert "condlr-rank0.25-seed0: training stopped in epoch 1" in result.stderr
    assert (here / "reports/tiny/report.html").is_file()


@pytest.mark.slow
def test_when_every_run_diverges_there_is_no_report(rlr_eval: Command, here: Path, experiment: Path) -> None:
    text = experiment.read_text()
    assert "[training]\n" in text
    experiment.write_text(re.sub(r"^lr = .*\n", "", text, flags=re.MULTILINE).replace("[training]\n", "[training]\nlr = 1e6\n"))
    result = rlr_eval("bench", experiment, "--workers", 2)
    assert result.exit_code == 1
    assert "no run of tiny came to an end" in result.stderr
    assert not (here / "reports/tiny/report.html").exists()
