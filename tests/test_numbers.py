import math

import pytest

from robust_lowrank import numbers
from robust_lowrank.records import attack_title


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.00"),
        (1.1, "1.10"),
        (37.46, "37.5"),
        (349.2, "349"),
        (99999.4, "99999"),
        (1234567.0, "1.23 × 10⁶"),
        (2e-7, "2.00 × 10⁻⁷"),
        (0.0812, "0.0812"),
        (0.0, "0"),
        (math.inf, "∞"),
        (math.nan, "–"),
    ],
)
def test_quantities_have_three_digits(value, text):
    assert numbers.quantity(value) == text


@pytest.mark.parametrize(
    ("eps", "text"), [(0.1, "0.1"), (0.05, "0.05"), (8 / 255, "8/255"), (0.5 / 255, "1/510"), (0.2, "0.2"), (0.031, "0.031")]
)
def test_budgets_are_written_as_people_write_them(eps, text):
    assert numbers.budget(eps) == text


def test_p_values_carry_their_relation():
    assert [numbers.p_value(p) for p in (0.0001, 0.0031, 0.21, 1.0)] == ["< 0.001", "= 0.003", "= 0.21", "= 1.00"]


def test_names_of_attacks():
    assert [attack_title(name) for name in ("fgsm", "pgd-20", "autoattack", "my-own")] == [
        "FGSM",
        "PGD-20",
        "AutoAttack",
        "my-own",
    ]


def test_listing():
    assert [numbers.listing(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_what_is_not_known_exactly_is_a_range():
    assert [numbers.accuracy(0.72, 0.72), numbers.accuracy(0.72, 0.755)] == ["72.0", "72.0 to 75.5"]
    assert [numbers.gap(-0.03, -0.03), numbers.gap(-0.04, -0.01), numbers.gap(-0.01, 0.03)] == [
        "3.0 points",
        "1.0 to 4.0 points",
        "up to 3.0 points",
    ]
    assert [numbers.signed(0.031), numbers.signed(-0.12)] == ["+3.1", "−12.0"]
