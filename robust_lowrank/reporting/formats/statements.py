"""Statements of a report carry a weight each."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Statement:
    """A sentence in plain words; `kind` says whether a test supports it, leaves it open, or it is a remark or a warning.

    What is `urgent` is never folded away: without it the figures would be misread.
    """

    kind: Literal["supported", "open", "note", "warning"]
    text: str
    urgent: bool = False


@dataclass(frozen=True)
class Summary:
    """The top of a report: the main statement, how sure it is, and what else there is to know."""

    headline: str
    evidence: str
    statements: tuple[Statement, ...]
