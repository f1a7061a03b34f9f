import math

import pytest

from robust_lowrank.errors import UserError, brief
from robust_lowrank.ranges import BUDGETS, FACTORS, SEEDS, Range, distinct


@pytest.mark.parametrize("value", [0, 2**63 - 1])
def test_ends_are_in_a_range(value: int) -> None:
    assert SEEDS.check(value) == value
    SEEDS.require("--seed", None)


@pytest.mark.parametrize("value", [-1, 2**63, math.nan, math.inf, pytest.param(10**5000, id="long")])
def test_what_is_outside_is_named_with_the_ends(value: float) -> None:
    with pytest.raises(UserError, match=r"--seed = .* must lie between 0 and 9,223,372,036,854,775,807"):
        SEEDS.require("--seed", value)


def test_a_range_may_be_open_below() -> None:
    assert Range(0, 1, above=True).check(1e-300) == 1e-300
    with pytest.raises(UserError, match=r"0\.0 must be above 0, at most 1e\+06"):
        FACTORS.check(0.0)


def test_a_list_is_short_and_repeats_nothing() -> None:
    assert distinct((0.2, 0.1)) == (0.2, 0.1)
    with pytest.raises(UserError, match=r"0\.1 stands here twice"):
        distinct((0.1, 0.2, 0.1))
    with pytest.raises(UserError, match="1,001 numbers are too many"):
        distinct(tuple(float(number) for number in range(BUDGETS + 1)))


def test_values_of_any_length_and_depth_fit_into_a_message() -> None:
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, "x" * 10**6, [10**5000] * 1000, {"key" * 1000: 0xF << 10**6}):
        assert len(brief(value)) < 400
