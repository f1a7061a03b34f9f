"""Options name a network from elsewhere, for every command that takes one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust_lowrank.cli.commands.images import reading_keys
from robust_lowrank.errors import UserError, brief

if TYPE_CHECKING:
    from robust_lowrank.jobs.subjects import Foreign
    from robust_lowrank.ranges import Range
    from robust_lowrank.training import DataConfig

ELSEWHERE = "A network from elsewhere"
ForeignModel = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=ELSEWHERE,
        help="module:function, torchvision:NAME, timm:NAME, a name of 'rlr-eval list models', or a .ts, .pt2 or .onnx file.",
    ),
]
ForeignWeights = Annotated[Path | None, typer.Option(rich_help_panel=ELSEWHERE, help="Weights: .safetensors, .pt or .pth.")]
ForeignClasses = Annotated[int | None, typer.Option(rich_help_panel=ELSEWHERE, help="How many classes it has.")]
ForeignMean = Annotated[str | None, typer.Option(rich_help_panel=ELSEWHERE, help="What it expects subtracted: 0.49,0.48,0.45")]
ForeignStd = Annotated[str | None, typer.Option(rich_help_panel=ELSEWHERE, help="What it expects divided by, a channel each.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run code that strangers may have written, with your rights: TorchScript, programs that are more than plain tensor "
        "operations, and functions that a run names as its network's. Only where you trust whoever made it.",
    ),
]


def foreign_network(
    model: str | None,
    weights: Path | None,
    data: str | None,
    data_dir: Path | None,
    *,
    classes: int | None,
    mean: str | None,
    std: str | None,
    image_size: str | None,
    channels: int | None,
    skip_broken: bool,
    trust_code: bool,
) -> "Foreign | None":
    """Return the network that the options name; None without --model.

    Raises:
        UserError: an option stands without --model, --data is missing, or a list of numbers is none.
    """
    keys = reading_keys(image_size, channels, skip_broken)
    if model is None:
        given = {"--weights": weights, "--classes": classes, "--mean": mean, "--std": std}
        if lone := [name for name, value in given.items() if value is not None]:
            raise UserError(f"{lone[0]} belongs to a network from elsewhere: name it with --model")
        if any(value is not None for value in keys.values()):
            raise UserError("a run's images are read as in its training: leave --image-size, --channels and --skip-broken out")
        return None
    if data is None:
        raise UserError("--model needs its examples: give --data, such as the name of a data set")
    from robust_lowrank.jobs.subjects import Foreign
    from robust_lowrank.ranges import COUNTS, FACTORS, SHIFTS

    COUNTS.require("--classes", classes)
    shift, scale = numbers_of(mean, "--mean", SHIFTS), numbers_of(std, "--std", FACTORS)
    images = images_of(data, data_dir, keys)
    assert images is not None
    return Foreign(model, weights, images, classes=classes, mean=shift, std=scale, trust_code=trust_code)


def images_of(data: str | None, data_dir: Path | None, keys: dict[str, Any]) -> "DataConfig | None":
    """Return the images that --data names, with how they are read; None without it.

    Raises:
        UserError: a value is out of range, or another option stands without --data.
    """
    values = {"name": data, "data_dir": None if data_dir is None else str(data_dir), **keys}
    given = {key: value for key, value in values.items() if value is not None}
    if data is None:
        if given:
            raise UserError("--data-dir, --image-size, --channels and --skip-broken say how --data is read: give --data as well")
        return None
    from robust_lowrank.tables import parse_table
    from robust_lowrank.training import DataConfig

    return parse_table(given, DataConfig, source="options")


def numbers_of(text: str | None, option: str, allowed: "Range") -> tuple[float, ...] | None:
    """Return the numbers of an option such as "0.49,0.48,0.45".

    Raises:
        UserError: it holds something else, or a number is out of range.
    """
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(f"{option} {brief(text)} is not a list of numbers: write one a channel, such as 0.49,0.48,0.45") from error
    for number in numbers:
        allowed.require(option, number)
    return numbers
