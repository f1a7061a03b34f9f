"""How data of one's own are read, and in what words they are spoken of."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from robust_lowrank.errors import UserError, brief
from robust_lowrank.ranges import SIDES

Progress = Callable[[int, int], None]  # how many images are read, of how many
TEST_FRACTION = 0.2
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Reading:
    """How a directory of images or a file of arrays is read.

    Example:
        >>> Reading(size=32).shape
        (32, 32)

    Attributes:
        size: height and width that images of a directory are brought to, one number for both; None: all have one size already.
        channels: 1 for grey images or 3 for RGB; None: grey if every image is grey.
        test_fraction: of the images, where nothing says which are to test on; None: 0.2.
        skip_broken: leave out image files that cannot be read.

    Raises:
        UserError: a value is out of range.
    """

    size: int | tuple[int, int] | None = None
    channels: int | None = None
    test_fraction: float | None = None
    skip_broken: bool = False

    def __post_init__(self) -> None:
        for side in self.shape or ():
            SIDES.require("size", side)
        if self.channels not in (None, 1, 3):
            raise UserError(f"channels = {brief(self.channels)} must be 1 (grey) or 3 (RGB)")
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UserError(f"test_fraction = {self.test_fraction} must lie between 0 and 1, such as {TEST_FRACTION}")

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width, if they are given."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


def quiet(done: int, total: int) -> None:
    """Show no progress."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "image"), counted(1200, "image")
        ('1 image', '1,200 images')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def listed(names: Iterable[str], most: int = SHOWN) -> str:
    """Return the first of several names, and how many more there are.

    Example:
        >>> listed("abc", most=2)
        'a, b and 1 more'
    """
    every = list(names)
    rest = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + rest
