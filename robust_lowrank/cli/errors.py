"""Errors end the command: 1 for a failure at work, 2 for wrong use or bad input; tracebacks only with --debug."""

import errno
import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from robust_lowrank.cli.stopping import GOES_ON, exit_code, name_of
from robust_lowrank.errors import TrainingError, UserError, first_line

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


class Commands(TyperGroup):
    """The group of all commands, which says every error in one to three lines on stderr."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, and leave with its exit code."""
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except typer.TyperException as error:
            _say(error.format_message().strip())
            context = getattr(error, "ctx", None)
            if context is not None:
                typer.echo(f"See: {context.command_path} --help", err=True)
            sys.exit(error.exit_code)
        except typer.Abort:
            _say("stopped")
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command, and turn its errors into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (typer.TyperException, typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt as error:
            typer.echo(f"Stopped by {name_of(error)}: {GOES_ON}", err=True)
            raise typer.Exit(exit_code(error)) from None
        except BrokenPipeError:  # whoever read the output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            message, code = _explain(error)
            _say(message)
            raise typer.Exit(code) from error


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to say of an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, TrainingError):
        return str(error), 1
    if isinstance(error, OSError) and error.errno in FULL:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}: {GOES_ON}; make room first", 1
    if isinstance(error, ELSEWHERE):
        return f"{error.filename}: {error.strerror}: choose another place", 2
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"{error.filename} has vanished: put it back, where it was moved or unmounted, and give the same command again", 1
    reason = first_line(error) if str(error) else "no message"
    return f"{type(error).__name__}: {reason}\nRun it again with 'rlr-eval --debug ...' for the traceback.", 1


def _say(message: str) -> None:
    typer.echo(f"Error: {message}", err=True)
