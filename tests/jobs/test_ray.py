"""Tasks on Ray: what is asked of it, what becomes of workers that are lost, and of Ray when the command ends."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import robust_lowrank as rlr
from robust_lowrank import records
from robust_lowrank.cli.app import app
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.events import Event, Report
from robust_lowrank.jobs.executors import find_executor
from robust_lowrank.jobs.executors import ray as executor
from robust_lowrank.jobs.executors._machines import Machine
from tests.cli.test_stopping import start, until
from tests.experiments import TINY

pytest.importorskip("ray")

BENCH = ("bench", "tiny.toml", "--out", "ray", "--executor", "ray", "--workers", "2")
RUNS = ("runs/dense-seed0", "runs/condlr-rank0.25-seed0")
VERDICTS = ["example", "attack", "eps", "verdict", "adversarial_prediction", "margin", "distance", "flags"]


def die_once(mark: Path, report: Report) -> int:
    """Kill the process that does this the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, executor.__name__)
    result = CliRunner().invoke(app, ["attack", "RUN", "--executor", "ray"])
    assert result.exit_code == 2
    assert result.stderr == "Error: the executor ray needs ray: pip install 'robust-lowrank[ray]'\n"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1", "127.0.0.1:port"])
def test_a_cluster_that_does_not_answer_is_named_at_once(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    result = CliRunner().invoke(app, ["attack", "RUN", "--executor", "ray", "--workers", "2"])
    assert time.monotonic() - began < 20
    assert result.exit_code == 2
    assert f"no Ray cluster can be joined at RAY_ADDRESS = {address}: " in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_before_ray_runs_this_machine_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert [executor.Executor.default_workers(tasks) for tasks in (1, 4, 9)] == [1, 4, 6]
    assert executor.Executor.most_workers() == 24
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert executor.Executor.default_workers(9) == executor.Executor.most_workers() == 3


def places(cores: Sequence[int], each: float) -> int:
    return sum(int(count / each + 1e-6) for count in cores)


@given(cores=st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any), workers=st.integers(1, 100))
def test_workers_have_as_many_cores_as_there_are_for_all(cores: list[int], workers: int) -> None:
    each = executor.share([{"CPU": float(count)} for count in cores], workers)["num_cpus"]
    assert places(cores, each) >= workers
    assert each == int(each) or each < 1  # Ray takes no other numbers
    assert each < 1 or places(cores, each + 1) < workers


def test_where_there_are_gpus_a_worker_has_one() -> None:
    nodes = [{"CPU": 64.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 12.0, "GPU": 2.0}]
    assert executor.share(nodes, 3) == {"num_gpus": 1, "num_cpus": 4}
    assert executor.share([{"CPU": 2.0, "GPU": 4.0}], 4) == {"num_gpus": 1, "num_cpus": 0}


def test_threads_are_no_more_than_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [executor._threads(cores) for cores in (0.5, 1, 4)] == [1, 1, 2]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [executor._threads(cores) for cores in (0, 0.5, 4)] == [1, 1, 4]


def test_machines_are_alike_by_versions_and_by_what_they_compute() -> None:
    here = Machine.this()
    assert here.unlike(Machine.this()) == ""
    other = here._replace(name="other", versions=here.versions | {"torch": "0.1"})
    assert here.unlike(other) == f"torch 0.1 on other and {metadata.version('torch')} on {here.name}"
    last_bits = {kind: " ".join(str(float(number) * (1 + 1e-6)) for number in text.split()) for kind, text in here.answers.items()}
    assert here.unlike(here._replace(answers=last_bits)) == ""
    twice = {kind: " ".join(str(2 * float(number)) for number in text.split()) for kind, text in here.answers.items()}
    assert "the same versions, but a small network answers otherwise" in here.unlike(here._replace(name="other", answers=twice))


def test_ray_leaves_the_handler_of_sigterm_and_a_signal_meanwhile_reaches_it() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    try:
        with executor._signals_kept():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init does
            assert signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, [])
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
        assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_worker_that_does_not_suit_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here, threads = Machine.this(), torch.get_num_threads()
    executor._Worker(str(tmp_path), here, threads).greet()
    gone = tmp_path / "gone"
    with pytest.raises(UserError, match=f"^{gone} on {here.name}: No such file or directory: results are files that all nodes see"):
        executor._Worker(str(gone), here, threads).greet()
    other = here._replace(name="other", versions=here.versions | {"torch": "0.1"})
    said = f"^nodes differ, and so would verdicts: torch {metadata.version('torch')} on {here.name} and 0.1 on other"
    with pytest.raises(UserError, match=said):
        executor._Worker(str(tmp_path), other, threads).perform(partial(die_once, tmp_path / "mark"), None)
    assert not (tmp_path / "mark").exists()


def test_a_worker_that_cannot_start_is_explained_by_its_last_line() -> None:
    error = executor.RayError("The actor died\n  File x\nModuleNotFoundError: No module named 'robust_lowrank'\n")
    said = str(executor._no_worker(error))
    assert said.startswith("Ray cannot start a worker: ModuleNotFoundError: No module named 'robust_lowrank'\n")


@pytest.mark.slow
def test_the_task_of_a_worker_that_is_killed_is_done_again(cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = []
    with find_executor("ray")(1) as running:
        running.submit(partial(die_once, tmp_path / "mark"))
        (done_by,) = running.gather(events.append)
    assert done_by != os.getpid()
    assert [event.warning for event in events if event.warning] == [executor.LOST]
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_nodes_that_differ_are_named_before_anything_is_done(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Machine.this()
    monkeypatch.setattr(Machine, "this", lambda: here._replace(name="here", versions=here.versions | {"torch": "0.1"}))
    said = f"nodes differ, and so would verdicts: torch {metadata.version('torch')} on .* and 0.1 on here"
    with pytest.raises(UserError, match=said), find_executor("ray")(2) as running:
        running.submit(partial(die_once, tmp_path / "mark"))
        running.gather(lambda event: None)
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_a_ray_that_the_program_runs_is_left_to_it(cluster: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.touch()
    executor.ray.init(cluster.address, namespace="of the program", log_to_driver=False)
    with find_executor("ray")(1) as running:
        running.submit(partial(die_once, mark))
        (done_by,) = running.gather(lambda event: None)
    assert executor.ray.is_initialized()
    _, alive = psutil.wait_procs([psutil.Process(done_by)] if psutil.pid_exists(done_by) else [], timeout=10)
    assert not alive


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny experiment, done by one process."""
    here = tmp_path_factory.mktemp("alone")
    (here / "tiny.toml").write_text(TINY)
    rlr.bench(here / "tiny.toml", here / "one", workers=1)
    return here


def assert_same(one: Path, other: Path, result: str = "quick") -> None:
    """Require two runs to have the same weights and verdicts."""
    ours, theirs = records.read_run(one), records.read_run(other)
    assert ours.record.hashes == theirs.record.hashes
    assert ours.results[result].verdicts[VERDICTS].equals(theirs.results[result].verdicts[VERDICTS])


@pytest.mark.slow
def test_an_experiment_goes_on_where_a_node_is_lost(cluster: Any, alone: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    nodes = set(cluster.worker_nodes)

    def progress(event: Event) -> None:
        events.append(event)
        if event.job == "Ray" and event.done == event.total and nodes:
            cluster.remove_node(nodes.pop(), allow_graceful=False)

    try:
        rlr.bench(alone / "tiny.toml", tmp_path / "ray", executor="ray", workers=2, progress=progress)
    finally:
        cluster.add_node(num_cpus=1)
    assert [event.warning for event in events if event.warning] == [executor.LOST]
    for run in RUNS:
        assert_same(alone / "one" / run, tmp_path / "ray" / run)


@pytest.mark.slow
def test_workers_of_ray_share_the_examples_of_a_run(cluster: Any, alone: Path, tmp_path: Path) -> None:
    said = {}
    for place, options in {"one": ("--workers", "1"), "ray": ("--workers", "2", "--executor", "ray")}.items():
        shutil.copytree(alone / "one" / RUNS[0], tmp_path / place)
        settings = ("--suite", "quick", "--eps", "0.05", "--norm", "Linf", "--n", "40", "--batch-size", "8")
        result = CliRunner().invoke(app, ["attack", str(tmp_path / place), *settings, *options])
        assert result.exit_code == 0, result.stderr
        said[place] = result.stderr
    assert "Ray: workers: 2" in said["ray"]
    assert_same(tmp_path / "one", tmp_path / "ray", "quick-2")


@pytest.mark.slow
def test_a_ray_of_the_command_ends_with_it_and_says_nothing(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "tiny.toml").write_text(TINY)
    process = start(tmp_path, *BENCH)
    until("epoch 1", process)
    family = psutil.Process(process.pid).children(recursive=True)
    out, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert "raylet" not in out + said
    for run in RUNS:
        assert_same(alone / "one" / run, tmp_path / "ray" / run)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "group"), [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGHUP, True)])
def test_a_ray_of_the_command_ends_with_it_when_it_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: signal.Signals, group: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 1", "epochs = 100000"))
    process = start(tmp_path, *BENCH)
    until("epoch 1", process)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, sent) if group else process.send_signal(sent)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 128 + sent
    assert f"Stopped by {sent.name}" in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
