"""Vanilla is W = A B^T, the baseline."""

from dataclasses import dataclass
from typing import ClassVar

from robust_lowrank.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class Vanilla(Method):
    """Train both factors of W = A B^T as they are, by simultaneous descent and without a constraint.

    Example:
        >>> Vanilla().evaluations
        1
    """

    name: ClassVar[str] = "vanilla"

    @property
    def form(self) -> str:
        """A B^T."""
        return "pair"
