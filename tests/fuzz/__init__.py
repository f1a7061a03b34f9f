"""Bytes that nobody vouches for, given to every parser: 50 cases each, or as many as the variable RLR_FUZZ says."""

import os

from hypothesis import HealthCheck, settings

CASES = int(os.environ.get("RLR_FUZZ", "50"))
SECONDS = 5  # that one case may take

fuzzed = settings(
    max_examples=CASES,
    deadline=1000 * SECONDS,
    derandomize="RLR_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # the decorator of every property test here
