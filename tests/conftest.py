"""Fixtures that the tests of the numerics share: devices, precisions and their tolerances."""

import sys
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        sampled = item.get_closest_marker("sampled")
        if sampled is not None and zlib.crc32(item.nodeid.encode()) % sampled.args[0]:
            item.add_marker(pytest.mark.slow)


class Precision(NamedTuple):
    """A type and the tolerances that hold in it."""

    dtype: torch.dtype
    tight: float
    loose: float


PRECISIONS = {"float64": Precision(torch.float64, 1e-12, 1e-10), "float32": Precision(torch.float32, 1e-5, 1e-4)}


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return PRECISIONS[request.param]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def traced() -> Iterator[None]:
    """Have coverage and debuggers go on after a test: some of pyautoattack's checks end them."""
    trace = sys.gettrace()
    yield
    sys.settrace(trace)
