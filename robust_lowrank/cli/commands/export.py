"""`rlr-eval export`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import Data, DataDir
from robust_lowrank.cli.commands.elsewhere import TrustCode


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    to: Annotated[str, typer.Option(help="dense, factors, auto, onnx, torch-export, int8, or peft where it is adapted.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="The file to write; RUN/exports/FORM with its suffix without it.")] = None,
    data: Data = None,
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Take a network away: as weights of ordinary layers, or as a program that runs without this package.

    auto times each layer merged and as a chain of thin ones, and takes the faster; programs are made of that. The file is read
    again and compared with the run on test images.
    """
    from robust_lowrank.jobs.chain import Location
    from robust_lowrank.jobs.exports import export_run

    exported = export_run(run, to, out=out, images=Location(data, data_dir), trust_code=trust_code)
    if json:
        layers = {name: times._asdict() for name, times in exported.times.items()}
        console.print_json(exported._asdict() | {"path": str(exported.path), "times": layers})
        return
    if exported.times:
        table = Table("layer", "merged, ms", "thin, ms", "taken", box=None, pad_edge=False)
        for name, times in exported.times.items():
            taken = "thin" if times.chain else "merged"
            table.add_row(escape(name), f"{1000 * times.dense:.3g}", f"{1000 * times.factors:.3g}", taken)
        console.print_table(table)
    files = [exported.path] if exported.path.is_file() else [*exported.path.iterdir()]
    console.say(f"{exported.path}: {sum(file.stat().st_size for file in files) / 1e6:.2f} MB")
    if exported.examples:
        console.say(
            f"On {exported.examples} test images its logits differ from the run's by at most {exported.difference:.2g}, "
            f"and {exported.flipped} predictions are others"
        )
    for line in exported.usage:
        console.say(line)
