"""Errors end the command: 1 for a failure at work, 2 for wrong use or bad input; tracebacks only with --debug."""

import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from robust_lowrank.errors import UserError


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
        except Exception as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            if isinstance(error, UserError):
                _say(str(error))
                raise typer.Exit(2) from error
            if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError | PermissionError):
                _say(f"{error.filename}: {error.strerror}: choose another place")
                raise typer.Exit(2) from error
            reason = (str(error).splitlines() or ["no message"])[0]
            _say(f"{type(error).__name__}: {reason}\nRun it again with 'rlr-eval --debug ...' for the traceback.")
            raise typer.Exit(1) from error


def _say(message: str) -> None:
    typer.echo(f"Error: {message}", err=True)
