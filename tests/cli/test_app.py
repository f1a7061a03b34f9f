"""The root: help, version, and how the command ends."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from robust_lowrank.cli.app import COMMANDS
from robust_lowrank.cli.errors import Commands
from robust_lowrank.errors import TrainingError, UserError

Command = Callable[..., Result]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_shows_an_example(rlr_eval: Command, name: str) -> None:
    result = rlr_eval(name, "--help")
    assert result.exit_code == 0
    shown = " ".join(result.stdout.split())
    assert f"Example: {COMMANDS[name][1]}" in shown


def test_the_contract_names_these_commands() -> None:
    contract = {"demo", "train", "attack", "verify", "forecast", "condition", "report", "bench", "list", "doctor"}
    assert set(COMMANDS) == contract | {"certify", "compare", "export", "plan", "retry", "show", "status", "submit", "view"}


def test_version(rlr_eval: Command) -> None:
    result = rlr_eval("--version")
    assert (result.exit_code, result.stdout) == (0, f"rlr-eval {metadata.version('robust-lowrank')}\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_is_told_at_once_that_torch_is_loaded() -> None:
    import pty

    terminal, inside = pty.openpty()
    code = "from robust_lowrank.cli import main; main()"
    started = subprocess.Popen([sys.executable, "-c", code, "list", "models"], stdout=subprocess.PIPE, stderr=inside)
    os.close(inside)
    first = b""
    while b"Loading" not in first and (part := os.read(terminal, 100)):
        first += part
    running = started.poll() is None
    assert b"cnn" in started.communicate()[0] and started.returncode == 0
    os.close(terminal)
    assert running and b"Loading" in first


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_console_that_lacks_letters_gets_their_numbers(tmp_path: Path, encoding: str) -> None:
    train = ("train", "--data", "digits", "--train-examples", "100", "--method", "condlr", "--rank", "0.5", "--epochs", "1")
    code = "from robust_lowrank.cli import main; main()"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", code, *train, "--out", str(tmp_path / "RUN")]
    done = subprocess.run(command, env=environment, capture_output=True, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert ("CondLR τ=0.1" if encoding == "utf-8" else r"CondLR \u03c4=0.1") in done.stdout


def failing(error: Exception) -> typer.Typer:
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

    @app.callback()
    def root(debug: bool = False) -> None: ...

    @app.command()
    def work() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("eps is wrong: take 0.1"), 2, "Error: eps is wrong: take 0.1\n"),
        (TrainingError("the loss is nan"), 1, "Error: the loss is nan\n"),
        (OSError(28, "No space left on device"), 1, "Error: No space left on device: what is finished is kept"),
        (RuntimeError(), 1, "Error: RuntimeError: no message\n"),
    ],
)
def test_errors_end_with_their_code_and_a_traceback_only_when_debugging(error: Exception, code: int, said: str) -> None:
    plain = CliRunner().invoke(failing(error), ["work"])
    assert plain.exit_code == code
    assert plain.stderr.startswith(said)
    assert plain.stderr.count("\n") <= 3
    assert "Traceback" not in plain.stderr
    assert not plain.stdout
    debugged = CliRunner().invoke(failing(error), ["--debug", "work"])
    assert debugged.exit_code == code
    assert "Traceback" in debugged.stderr
    assert said in debugged.stderr


def test_an_interruption_ends_with_130() -> None:
    result = CliRunner().invoke(failing(KeyboardInterrupt()), ["work"])  # pyright: ignore[reportArgumentType]
    assert result.exit_code == 130
