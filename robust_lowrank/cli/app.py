"""The root of the command line holds global options and the commands."""

import io
import sys
from collections.abc import Callable
from functools import wraps
from importlib import metadata
from typing import Annotated, Any

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import attack
from robust_lowrank.cli.commands.bench import bench, demo
from robust_lowrank.cli.commands.catalogue import list_names
from robust_lowrank.cli.commands.certify import certify
from robust_lowrank.cli.commands.compare import compare
from robust_lowrank.cli.commands.doctor import doctor
from robust_lowrank.cli.commands.export import export
from robust_lowrank.cli.commands.plan import plan
from robust_lowrank.cli.commands.proof import forecast, verify
from robust_lowrank.cli.commands.reports import condition, report
from robust_lowrank.cli.commands.show import show
from robust_lowrank.cli.commands.status import retry, status
from robust_lowrank.cli.commands.submit import submit
from robust_lowrank.cli.commands.train import train
from robust_lowrank.cli.commands.view import view
from robust_lowrank.cli.errors import Commands
from robust_lowrank.cli.stopping import heed_signals

app: typer.Typer = typer.Typer(
    cls=Commands,
    name="rlr-eval",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (demo, "rlr-eval demo --out reports/demo"),
    "plan": (plan, "rlr-eval plan --data digits --model cnn --method condlr --rank 0.25"),
    "train": (train, "rlr-eval train --data digits --model cnn --method condlr --rank 0.25 --tau 0.1 --epochs 5 --out RUN"),
    "show": (show, "rlr-eval show RUN"),
    "attack": (attack, "rlr-eval attack RUN --suite quick --eps 0.1 --norm Linf --n 100"),
    "certify": (certify, "rlr-eval certify RUN --method smoothing --sigma 0.25 --n 100"),
    "verify": (verify, "rlr-eval verify RUN"),
    "submit": (submit, "rlr-eval submit RUN --out RUN.zip"),
    "forecast": (forecast, "rlr-eval forecast RUN --suite standard --n 500"),
    "condition": (condition, "rlr-eval condition RUN --out reports/condition"),
    "report": (report, "rlr-eval report RUN1 RUN2 --out reports/comparison"),
    "compare": (compare, "rlr-eval compare ours.csv theirs=samples_gsm8k.jsonl --out reports/compare"),
    "view": (view, "rlr-eval view runs"),
    "export": (export, "rlr-eval export RUN --to onnx"),
    "bench": (bench, "rlr-eval bench fashion-mnist-quick --download"),
    "status": (status, "rlr-eval status fashion-mnist-quick --shards 16"),
    "retry": (retry, "rlr-eval retry fashion-mnist-quick --shards 16 shard.sh"),
    "list": (list_names, "rlr-eval list methods"),
    "doctor": (doctor, "rlr-eval doctor"),
}
WITHOUT_TORCH = ("report", "condition", "compare", "view")


def loading_torch(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that first loads torch, which takes seconds, and says so on a terminal."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        with console.status("Loading torch"):
            import torch  # noqa: F401
        command(*args, **kwargs)

    return run


for _name, (_command, _example) in COMMANDS.items():
    _whole = _command if _name in WITHOUT_TORCH else loading_torch(_command)
    app.command(_name, epilog=f"Example: {_example}")(_whole)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlr-eval {metadata.version('robust-lowrank')}")
        raise typer.Exit


@app.callback(epilog="Example: rlr-eval demo")
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Train PyTorch networks in low-rank form with bounded condition numbers, attack them, and compare them in one report."""


def main() -> None:
    """Run the command line."""
    heed_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a console without τ is no reason to fail at the very end
    app()
