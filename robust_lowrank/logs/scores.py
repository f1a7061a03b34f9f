"""Scores of examples become right or wrong, by one metric and of one repetition."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from robust_lowrank.errors import UserError, brief, shown

EXAMPLES = 500_000  # of a log
METRICS = 1000  # of an example
LONGEST = 1000  # characters of the name of an example or a metric
LISTED = 12  # names in a message
CORRECT = "correct"  # the metric that needs not be named
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


class Row(NamedTuple):
    """What a log says of one example, or of one repetition of it."""

    example: str
    scores: Mapping[str, object]  # by metric, as the file has them; None where there is none
    repeat: str = ""  # the epoch or seed, where the log has several
    subject: str = ""  # what is asked under this name, where the log says it: other logs have to agree


class Choice(NamedTuple):
    """What of a log is meant, where it has several."""

    metrics: Sequence[str] = ()  # names; each log has one of them
    threshold: float | None = None  # scores from here on are right; without one they are 0 or 1
    repeat: str | None = None


class Settled(NamedTuple):
    """Who is right by one metric."""

    metric: str
    right: dict[str, bool]  # by example; those without a score are left out
    subjects: dict[str, str]
    unscored: int


def settle(rows: Iterable[Row], where: str, choice: Choice) -> Settled:
    """Return which examples are right.

    Example:
        >>> settle([Row("7", {"acc": 1.0}), Row("8", {"acc": 0.0})], "a.jsonl", Choice()).right
        {'7': True, '8': False}

    Raises:
        UserError: examples stand there twice or in several repetitions, no one metric is meant, or a score is neither 0 nor 1.
    """
    kept = _of_one_repeat(_bounded(rows, where), where, choice.repeat)
    examples: set[str] = set()
    for row in kept:
        if row.example in examples:
            raise UserError(f"{where} has the example {brief(row.example)} twice: nobody can tell which is meant; keep one")
        examples.add(row.example)
    metric = _metric(kept, where, choice.metrics)
    scored = {row.example: value for row in kept if (value := row.scores.get(metric)) not in (None, "")}
    if not scored:
        raise UserError(f"{where} has no example with a score: it may be of an evaluation that failed")
    right = {example: _right(value, metric, example, where, choice.threshold) for example, value in scored.items()}
    subjects = {row.example: row.subject for row in kept if row.subject}
    return Settled(shown(metric), right, subjects, len(kept) - len(right))


def number(value: object) -> float | None:
    """Return a score as a number; None if it is none.

    Example:
        >>> number(True), number("0"), number("False"), number("C")
        (1.0, 0.0, 0.0, None)
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text in _WORDS:
            return _WORDS[text]
        value = text
    elif not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _bounded(rows: Iterable[Row], where: str) -> list[Row]:
    kept = []
    for row in rows:
        if len(row.example) > LONGEST or len(row.scores) > METRICS or any(len(name) > LONGEST for name in row.scores):
            raise UserError(f"{where}: the example {brief(row.example)} has a very long name, or very many or long ones of metrics")
        kept.append(row)
        if len(kept) > EXAMPLES:
            raise UserError(f"{where} has more than {EXAMPLES:,} examples: compare on fewer")
    if not kept:
        raise UserError(f"{where} has no examples: give a log with results of each")
    return kept


def _of_one_repeat(rows: list[Row], where: str, repeat: str | None) -> list[Row]:
    repeats = list(dict.fromkeys(row.repeat for row in rows))
    if len(repeats) == 1 and repeat in (None, repeats[0]):
        return rows
    if repeats == [""]:
        return rows  # a log without repetitions beside others that have some
    if repeat is None:
        raise UserError(
            f"{where} has {len(repeats):,} repetitions of its examples ({_listing(repeats)}), and a paired test takes one verdict "
            f"an example\nChoose one: --repeat {shown(repeats[0])[:LONGEST]}"
        )
    if repeat not in repeats:
        raise UserError(f"{where} has no repetition {brief(repeat)}: it has {_listing(repeats)}")
    return [row for row in rows if row.repeat == repeat]


def _metric(rows: list[Row], where: str, wanted: Sequence[str]) -> str:
    """Return the metric that is meant: one that is named, the only one, or "correct"."""
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    values = {name: [value for row in rows if (value := row.scores.get(name)) not in (None, "")] for name in names}
    usable = [name for name in names if values[name] and all(number(value) is not None for value in values[name])]
    if found := [name for name in names if name in wanted]:
        if len(found) > 1:
            raise UserError(f"{where} has several of the metrics that --metric names, {_listing(found)}: name one that it has")
        return found[0]
    if wanted:
        raise UserError(f"{where} has no metric {brief(wanted[0])}: it has {_listing(usable) or 'none'}")
    if CORRECT in names:
        return CORRECT
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise UserError(
            f"{where} has no scores that are numbers: {_listing(names) or 'nothing'} is all that it says of its examples"
        )
    raise UserError(f"{where} has {len(usable)} metrics, {_listing(usable)}\nChoose one: --metric {shown(usable[0])[:LONGEST]}")


def _right(value: object, metric: str, example: str, where: str, threshold: float | None) -> bool:
    score = number(value)
    if score is None or math.isnan(score):
        raise UserError(f"{where}: {brief(metric)} of the example {brief(example)} is {brief(value)}, which is no score")
    if threshold is not None:
        return score >= threshold
    if score not in (0.0, 1.0):
        raise UserError(
            f"{where}: {brief(metric)} of the example {brief(example)} is {brief(value)}, and a paired test takes 1 (right) or 0\n"
            "Say from which score on an example counts as right: --threshold 0.5"
        )
    return score == 1.0


def _listing(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(shown(name)[:80] or "''" for name in names[:LISTED]) + more
