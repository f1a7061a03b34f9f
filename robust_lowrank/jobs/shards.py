"""A shard is a part of a list of work that every machine makes alike: several need no word of one another."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from robust_lowrank.errors import UserError, brief

MOST = 100_000  # shards
_Work = TypeVar("_Work")


@dataclass(frozen=True)
class Shard:
    """The work number `index`, and every `of`-th after it, of a list.

    Example:
        >>> Shard.parse("2/3").share("abcdefg")
        ['b', 'e']
    """

    index: int  # from 1
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Return the shard that is written `i/n`.

        Raises:
            UserError: it is none.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
        index, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= of <= MOST:
            raise UserError(f"--shard {brief(text)} is none: give i/n, such as 3/16, with i from 1 to n, and n at most {MOST:,}")
        return cls(index, of)

    def share(self, work: Sequence[_Work]) -> list[_Work]:
        """Return its part of a list."""
        return list(work[self.index - 1 :: self.of])

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def written(numbers: Iterable[int]) -> str:
    """Return numbers as a job array takes them.

    Example:
        >>> written([1, 2, 3, 7, 9, 10])
        '1-3,7,9-10'
    """
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
