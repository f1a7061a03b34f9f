"""A result supersedes another of the same network and attack that it repeats on more examples or at more radii."""

from typing import Any

from robust_lowrank.records.behaviour import unlike
from robust_lowrank.records.documents import ResultRecord


def supersedes(one: ResultRecord, other: ResultRecord) -> bool:
    """Return whether `one` says all that `other` says, and more: the same attack with the same seed, on more examples or eps.

    Example:
        >>> supersedes(on_a_thousand, on_a_hundred)  # doctest: +SKIP
        True
    """
    return (
        (one.suite, one.norm, one.seed) == (other.suite, other.norm, other.seed)
        and one.hashes["weights"] == other.hashes["weights"]
        and not unlike(one.behaviour, other.behaviour)
        and _size(one) >= _size(other)
        and _unresolved(one) <= _unresolved(other)
        and set(one.eps) >= set(other.eps)
        and (_size(one), len(one.eps), -_unresolved(one)) > (_size(other), len(other.eps), -_unresolved(other))
        and _attacks(one) == _attacks(other)
    )


def _size(record: ResultRecord) -> int:
    return record.accuracies[0].total


def _unresolved(record: ResultRecord) -> int:
    return sum(entry.unresolved for entry in record.accuracies)


def _attacks(record: ResultRecord) -> list[dict[str, Any]]:
    """Return the attacks without what depends on eps: lists of numbers, one for each."""
    return [{name: value for name, value in entry.items() if not _numbers(value)} for entry in record.definition["attacks"]]


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(number, float | int) for number in value)
