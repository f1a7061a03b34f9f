"""A command that is stopped says how far it came, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from robust_lowrank import records
from robust_lowrank.cli.progress import Board
from robust_lowrank.cli.stopping import Stopped, exit_code, name_of
from robust_lowrank.jobs.events import Event

TRAIN = ("train", "--data", "digits", "--model", "mlp", "--epochs", "5000", "--out", "run")
BENCH = ("bench", "tiny.toml", "--out", "bench", "--workers", "2")
RUN = "import sys; from robust_lowrank.cli import main; sys.argv[0] = 'rlr-eval'; main()"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def start(here: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, *args]
    return subprocess.Popen(command, cwd=here, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


def until(line: str, process: subprocess.Popen[str]) -> None:
    """Wait until a line of its progress has these words, and let the rest be read later."""
    assert process.stderr is not None
    for text in process.stderr:
        if line in text:
            return
    pytest.fail(f"it ended without {line!r}")


@pytest.mark.slow
@pytest.mark.parametrize("sent", SIGNALS)
def test_a_training_that_is_stopped_says_where_and_goes_on_there(tmp_path: Path, sent: signal.Signals) -> None:
    process = start(tmp_path, *TRAIN)
    until("epoch 3 of 5000", process)
    process.send_signal(sent)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 128 + sent
    assert f"Stopped by {sent.name}: what is finished is kept, and the same command goes on" in said
    assert "run: stopped in training at 0%; last: epoch" in said
    assert "Traceback" not in said
    done = records.read_record(tmp_path / "run" / "run.json", records.RunRecord).epochs_done
    assert done >= 3
    again = start(tmp_path, *TRAIN)
    until(f"epoch {done + 1} of 5000", again)
    again.kill()
    again.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["the command alone", "all its processes"])
@pytest.mark.parametrize("sent", [*SIGNALS, signal.SIGKILL])
def test_workers_end_with_the_command_however_it_ends(experiment: Path, sent: signal.Signals, group: bool) -> None:
    process = start(experiment.parent, *BENCH)
    until("epoch 1", process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    os.killpg(process.pid, sent) if group else process.send_signal(sent)
    _, said = process.communicate(timeout=200)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 128 + sent)
    _, alive = psutil.wait_procs(family, timeout=100)
    assert not alive
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.2, 1.0, 2.0, 3.0, 4.0])
def test_workers_that_are_only_starting_end_too(experiment: Path, delay: float) -> None:
    process = start(experiment.parent, *BENCH)
    time.sleep(delay)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=200)
    _, alive = psutil.wait_procs(family, timeout=100)
    assert not alive


def test_how_far_jobs_came_is_said_of_those_that_have_not_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Board() as board:
        board(Event("one", "training", 2, 2, note="epoch 1 of 1"))
        board(Event("other", "training", 1, 4, note="epoch 1 of 4"))
        board(Event("other", "training", 3, 8))
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines()[-1] == "other: stopped in training at 38%; last: epoch 1 of 4"


def test_signals_have_the_exit_codes_that_shells_know() -> None:
    codes = {name_of(error): exit_code(error) for error in (KeyboardInterrupt(), Stopped(signal.SIGTERM), Stopped(signal.SIGHUP))}
    assert codes == {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    process = start(tmp_path, "list", "methods")
    assert process.stdout is not None
    process.stdout.close()
    _, said = process.communicate(timeout=200)
    assert said == ""
    assert process.returncode <= 1  # rich ends with 1


def test_the_disk_that_is_full_and_the_directory_that_vanished_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from robust_lowrank.cli.app import app

    errors = {OSError(28, "No space left on device", "run/model.safetensors"): "make room first"}
    errors[FileNotFoundError(2, "No such file", "run/x")] = "run/x has vanished"
    for error, said in errors.items():
        monkeypatch.setattr("robust_lowrank.jobs.load_experiment", lambda name, error=error: (_ for _ in ()).throw(error))
        result = CliRunner().invoke(app, ["demo"])
        assert result.exit_code == 1
        assert said in result.stderr
