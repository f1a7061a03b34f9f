"""Numbers that people give lie in ranges that make sense, wherever they are given."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from robust_lowrank.errors import UserError, brief

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Range:
    """Finite numbers from `low` to `high`, or above `low` where that is none of them.

    Example:
        >>> EPOCHS.require("--epochs", 0)
        Traceback (most recent call last):
        robust_lowrank.errors.UserError: --epochs = 0 must lie between 1 and 1,000,000
    """

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        low, high = (f"{end:,}" if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high))
        return f"must be above {low}, at most {high}" if self.above else f"must lie between {low} and {high}"

    def check(self, value: _Number) -> _Number:
        """Return a number that is in the range.

        Raises:
            UserError: it is not; NaN is in none.
        """
        if value not in self:
            raise UserError(f"{brief(value)} {self}")
        return value

    def require(self, name: str, value: float | None) -> None:
        """Make sure that a number that has a name, if it is given, is in the range.

        Raises:
            UserError: it is not.
        """
        if value is not None and value not in self:
            raise UserError(f"{name} = {brief(value)} {self}")


SEEDS = Range(0, 2**63 - 1)  # those of torch
EPOCHS = Range(1, 1_000_000)
BATCHES = Range(1, 2**20)  # examples at a time
COUNTS = Range(1, 10**9)  # examples, steps between two records
TRIES = Range(1, 10_000_000)  # steps, restarts, queries or draws of an attack; samples of a certificate
RANKS = Range(1, 1_000_000)
SIDES = Range(1, 8192)  # pixels
PASSES = Range(1, 10**15)
SECONDS = Range(0, 10**9, above=True)
MILLISECONDS = Range(0, 10**9, above=True)
FACTORS = Range(0, 1e6, above=True)  # what something is multiplied or divided by
WEIGHTS = Range(0, 1e6)
SHIFTS = Range(-1e6, 1e6)
BUDGETS = 1000  # eps or radii in one list

Seed = Annotated[int, AfterValidator(SEEDS.check)]
Epochs = Annotated[int, AfterValidator(EPOCHS.check)]
BatchSize = Annotated[int, AfterValidator(BATCHES.check)]
Count = Annotated[int, AfterValidator(COUNTS.check)]
Tries = Annotated[int, AfterValidator(TRIES.check)]
Factor = Annotated[float, AfterValidator(FACTORS.check)]
Weight = Annotated[float, AfterValidator(WEIGHTS.check)]
Shift = Annotated[float, AfterValidator(SHIFTS.check)]


def distinct(values: tuple[float, ...]) -> tuple[float, ...]:
    """Return a list of budgets or radii that is short and repeats nothing.

    Raises:
        UserError: it is long, or something stands in it twice.
    """
    if len(values) > BUDGETS:
        raise UserError(f"{len(values):,} numbers are too many: give at most {BUDGETS:,}")
    if repeated := [value for index, value in enumerate(values) if value in values[:index]]:
        raise UserError(f"{repeated[0]:g} stands here twice: give each number once")
    return values
