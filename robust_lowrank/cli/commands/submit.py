"""`rlr-eval submit`."""

from pathlib import Path
from typing import Annotated

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import Data, DataDir, Json
from robust_lowrank.cli.commands.elsewhere import (
    ForeignClasses,
    ForeignMean,
    ForeignModel,
    ForeignStd,
    ForeignWeights,
    TrustCode,
    foreign_network,
)
from robust_lowrank.cli.commands.images import Channels, ImageSize, SkipBroken
from robust_lowrank.cli.commands.proof import listed_examination, say_examination


def submit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory with results.")],
    out: Annotated[Path | None, typer.Option(help="The bundle; RUN.zip in the working directory without it.")] = None,
    data: Data = None,
    data_dir: DataDir = None,
    model: ForeignModel = None,
    weights: ForeignWeights = None,
    classes: ForeignClasses = None,
    mean: ForeignMean = None,
    std: ForeignStd = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    skip_broken: SkipBroken = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Put a run, its network and the examples of its results into one file from which others can prove them, without your machine.

    Every result is proved from the bundle before it is written. 'rlr-eval verify BUNDLE' proves it again, 'rlr-eval report
    BUNDLE...' makes a board of several. A network from elsewhere goes in as it was attacked: a .pt2 or .onnx file, or the weights
    of an architecture that torchvision, timm or this package has. Exit 1 if something is not proved: then nothing is written.
    """
    from robust_lowrank.jobs import bundles
    from robust_lowrank.jobs.chain import Location

    target = Path(f"{run.resolve().name}.zip") if out is None else out
    foreign = foreign_network(
        model,
        weights,
        data,
        data_dir,
        classes=classes,
        mean=mean,
        std=std,
        image_size=image_size,
        channels=channels,
        skip_broken=skip_broken,
        trust_code=trust_code,
    )
    made = bundles.submit(run, target, Location(data, data_dir), foreign=foreign, trust_code=trust_code)
    if json:
        listed = {"bundle": None if made.path is None else str(made.path), "sha256": made.sha256, "examples": made.examples}
        console.print_json(listed | listed_examination(made.examination))
    else:
        say_examination(made.examination, "")
        if made.path is None:
            console.say("No bundle was written: what is not proved here nobody else could prove.")
        else:
            size = made.path.stat().st_size / 2**20
            console.say(f"Bundle: {made.path}, {size:.1f} MiB with {made.examples} examples, sha256 {made.sha256}")
    if made.path is None:
        raise typer.Exit(1)
