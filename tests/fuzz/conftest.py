"""What memory a property test takes is bounded, and told to whoever reads the report of the tests."""

import resource
from collections.abc import Callable, Iterator

import pytest

MOST = 2**30  # bytes by which the most memory of the process may rise


@pytest.fixture(autouse=True)
def bounded(record_property: Callable[[str, object], None]) -> Iterator[None]:
    before = _most()
    yield
    record_property("growth", growth := _most() - before)
    assert growth < MOST


def _most() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
