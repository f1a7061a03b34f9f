"""USV trains all of W = U S V^T by descent, as low-rank layers are often parametrised."""

from dataclasses import dataclass
from typing import ClassVar

from robust_lowrank.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class USV(Method):
    """Train U, S and V at once by their ordinary gradients; nothing keeps the bases orthonormal.

    Example:
        >>> USV().form
        'triple'
    """

    name: ClassVar[str] = "usv"

    @property
    def form(self) -> str:
        """U S V^T without constraint."""
        return "triple"
