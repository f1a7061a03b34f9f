"""Options say how images of one's own are read, for every command that reads them."""

from typing import Annotated

import typer

from robust_lowrank.errors import UserError, brief

OWN = "Images of your own"
ImageSize = Annotated[
    str | None,
    typer.Option(rich_help_panel=OWN, metavar="N|HxW", help="Bring images of a directory to this height and width: 32, or 32x48."),
]
Channels = Annotated[
    int | None, typer.Option(rich_help_panel=OWN, help="1 for grey images, 3 for RGB; grey if all are, without it.")
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", rich_help_panel=OWN, help="Leave out image files that cannot be read; they are listed.")
]


def reading_keys(image_size: str | None, channels: int | None, skip_broken: bool) -> dict[str, object]:
    """Return the keys of [data] that the options stand for; None stands for an option not given.

    Raises:
        UserError: the size is none.
    """
    try:
        sides = None if image_size is None else [int(side) for side in image_size.lower().split("x")]
    except ValueError:
        sides = []
    if sides is not None and len(sides) not in (1, 2):
        raise UserError(f"--image-size {brief(image_size)} is no size: give one number, such as 32, or two, such as 32x48")
    size = sides[0] if sides is not None and len(sides) == 1 else sides
    return {"size": size, "channels": channels, "skip_broken": skip_broken or None}
