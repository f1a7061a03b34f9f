"""Errors say in which layer they arose."""

from collections.abc import Iterator
from contextlib import contextmanager

from robust_lowrank import linalg


@contextmanager
def naming_layer(layer: str) -> Iterator[None]:
    """Say in which layer a factorisation failed."""
    try:
        yield
    except linalg.FactorisationError as error:
        raise linalg.FactorisationError(f"layer {layer!r}: {error}") from error
