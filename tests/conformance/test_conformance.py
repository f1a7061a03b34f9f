"""Every property over random shapes, ranks and seeds; a failing one prints the seed that shows it."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.conformance.cases import METHODS
from tests.conformance.properties import PROPERTIES, Property

EXAMPLES = 5
PHASES = (Phase.explicit, Phase.generate)  # of seeds that show a fault the smallest is no simpler
CASES = [
    pytest.param(
        found,
        method,
        kind,
        dtype,
        id=f"{found.number}-{found.measure.__name__}-{method}-{kind}-{str(dtype)[6:]}",
        marks=[pytest.mark.slow] if {method, kind} & {*found.slow} else [],
    )
    for found in PROPERTIES
    for method, kind in found.cases()
    for dtype in (torch.float64, *((torch.float32,) if found.short_tolerance else ()))
]


@pytest.mark.sampled(9)
@pytest.mark.parametrize(("found", "method", "kind", "dtype"), CASES)
def test_property(found: Property, method: str, kind: str, dtype: torch.dtype) -> None:
    tolerance = found.tolerance if dtype == torch.float64 else found.short_tolerance

    @given(st.integers(0, 10**6))
    @settings(max_examples=min(EXAMPLES, found.seeds), phases=PHASES, deadline=None, derandomize=True, database=None)
    def holds(seed: int) -> None:
        error = found.measure(METHODS.get(method), kind, dtype, seed)
        assert error <= tolerance, f"{found.claim}: {error:.3g}"

    holds()


def test_every_number_from_T1_to_T36_is_measured() -> None:
    told = " ".join(f"{found.number} {found.claim}" for found in PROPERTIES)
    missing = [f"T{i}" for i in range(1, 37) if f"T{i} " not in f"{told} " and f"T{i}:" not in told]
    assert missing == []
