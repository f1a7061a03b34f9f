"""Fields of records have these types, which say what values are sensible, not only of which kind they are."""

import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from robust_lowrank.errors import shown

LARGEST = 2**63 - 1
FEATURES = 2**24  # numbers of one input: an image of 2364 x 2364 in three colours
CLASSES = 100_000

_HEX = re.compile(r"[0-9a-f]{1,64}")


def escaped(text: str) -> str:
    r"""Return text in one line that holds nothing unseen, as `errors.shown`, and quickly where it is so already.

    Example:
        >>> escaped("red\x1b[31m")
        'red\\x1b[31m'
    """
    return text if text.isprintable() else shown(text)


def file_name(name: str) -> str:
    """Return the name of a file that lies beside a record.

    Example:
        >>> file_name("verdicts.parquet")
        'verdicts.parquet'

    Raises:
        ValueError: it leads elsewhere, or is none.
    """
    if name in ("", ".", "..") or len(name) > 255 or not name.isprintable() or any(mark in name for mark in "/\\:"):
        raise ValueError("should be the name of a file beside the record, without a path")
    return name


def _digest(text: str) -> str:
    if not _HEX.fullmatch(text.removeprefix("sha256:")):
        raise ValueError("should be a hash, of the digits 0-9 and a-f")
    return text


def _time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("should be a time such as 2026-11-24T00:00:00+00:00") from error
    return text


def _numbers(text: str) -> str:
    try:
        [float(word) for word in text.split()]
    except ValueError as error:
        raise ValueError("should be numbers with spaces between them") from error
    return text


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > FEATURES:
        raise ValueError(f"should be a shape of {FEATURES:,} numbers at most")
    return shape


Name = Annotated[str, Field(max_length=1000), AfterValidator(escaped)]
Prose = Annotated[str, Field(max_length=100_000), AfterValidator(escaped)]
FileName = Annotated[str, AfterValidator(file_name)]
Digest = Annotated[str, AfterValidator(_digest)]
Time = Annotated[str, AfterValidator(_time)]
Answers = Annotated[str, Field(max_length=1_000_000), AfterValidator(_numbers)]  # of a network, as `threat.observe` has them

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # seconds, radii, bounds
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-LARGEST - 1, le=LARGEST)]
Shape = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=8), AfterValidator(_shape)]


def with_keys(*keys: str) -> Callable[[dict[str, str]], dict[str, str]]:
    """Return a validator of a table that has some keys."""

    def validate(table: dict[str, str]) -> dict[str, str]:
        if lacking := [key for key in keys if key not in table]:
            raise ValueError(f"should have {lacking[0]!r}")
        return table

    return validate


def require_order(low: float, value: float, high: float) -> None:
    """Require an interval that holds its value, but for rounding.

    Raises:
        ValueError: it does not.
    """
    if not low - 1e-9 <= value <= high + 1e-9:
        raise ValueError(f"value = {value:g} should lie between low = {low:g} and high = {high:g}")


def attack_entries(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the definition of a suite as it ran, with a table for each of its attacks, whose names can be shown.

    Raises:
        ValueError: it has none, or one is no table.
    """
    entries = definition.get("attacks")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("should have a list of tables, 'attacks'")
    for entry in entries:
        for key, kind in (("name", str), ("title", str), ("minimal", bool)):
            if key in entry and not isinstance(entry[key], kind):
                raise ValueError(f"should have a {kind.__name__} as {key} of an attack, not {entry[key]!r:.40}")
        radii = entry.get("eps", [])
        if not isinstance(radii, list) or not all(isinstance(eps, int | float) and 0 <= eps < math.inf for eps in radii):
            raise ValueError(f"should have a list of radii as eps of an attack, not {radii!r:.40}")
    texts = [{key: escaped(entry[key][:1000]) for key in ("name", "title") if key in entry} for entry in entries]
    return definition | {"attacks": [entry | text for entry, text in zip(entries, texts, strict=True)]}
