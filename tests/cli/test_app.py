"""The root: help, version, and how the command ends."""

from collections.abc import Callable
from importlib import metadata

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
    assert set(COMMANDS) == contract | {"certify", "plan"}


def test_version(rlr_eval: Command) -> None:
    result = rlr_eval("--version")
    assert (result.exit_code, result.stdout) == (0, f"rlr-eval {metadata.version('robust-lowrank')}\n")


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
        (TrainingError("the loss is nan"), 1, "Error: TrainingError: the loss is nan\n"),
        (OSError(28, "No space left on device"), 1, "Error: OSError: [Errno 28] No space left on device\n"),
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
