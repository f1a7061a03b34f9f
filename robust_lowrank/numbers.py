"""Numbers and names are written alike in every format of a report."""

import math
from fractions import Fraction

from robust_lowrank.statistics import Interval

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
SINGULAR = 2.0**23  # one over the spacing of float32 at 1
_NORMS = {"Linf": "L∞", "L2": "L2"}


def percent(fraction: float) -> str:
    """Return a fraction as a percentage without its sign.

    Example:
        >>> percent(0.4362)
        '43.6'
    """
    return f"{100 * fraction:.1f}".replace("-", "−")


def accuracy(least: float, most: float) -> str:
    """Return an accuracy in percent without its sign, or the range that unresolved examples leave open.

    Example:
        >>> accuracy(0.72, 0.72), accuracy(0.72, 0.755)
        ('72.0', '72.0 to 75.5')
    """
    return percent(least) if least == most else f"{percent(least)} to {percent(most)}"


def interval(low: float, high: float) -> str:
    """Return an interval of fractions in percent, such as `[38.1, 50.0]`."""
    return f"[{percent(low)}, {percent(high)}]"


def points(difference: float) -> str:
    """Return the size of a difference of two fractions in percentage points, such as `12.0 points`."""
    return f"{abs(100 * difference):.1f} points"


def gap(low: float, high: float) -> str:
    """Return the size of a difference of two fractions that lies between two bounds, in percentage points.

    Example:
        >>> gap(0.03, 0.03), gap(-0.04, -0.01), gap(-0.01, 0.03)
        ('3.0 points', '1.0 to 4.0 points', 'up to 3.0 points')
    """
    least, most = sorted((abs(low), abs(high)))
    if low == high:
        return points(low)
    return f"{percent(least)} to {points(most)}" if low * high > 0 else f"up to {points(most)}"


def signed(difference: float) -> str:
    """Return a difference of two fractions in percentage points with its sign.

    Example:
        >>> signed(0.031), signed(-0.12)
        ('+3.1', '−12.0')
    """
    return f"{100 * difference:+.1f}".replace("-", "−")


def coefficient(correlation: Interval) -> str:
    """Return a correlation with its interval.

    Example:
        >>> coefficient(Interval(-0.6, -0.92, 0.1))
        '−0.60 [−0.92, 0.10]'
    """
    return f"{decimal(correlation.value)} [{decimal(correlation.low)}, {decimal(correlation.high)}]"


def decimal(value: float) -> str:
    """Return a number with two decimals and a true minus sign, such as `−0.60`."""
    return f"{value:.2f}".replace("-", "−")


def p_value(p: float) -> str:
    """Return a p-value with its relation sign.

    Example:
        >>> p_value(0.0031), p_value(0.21), p_value(1e-6)
        ('= 0.003', '= 0.21', '< 0.001')
    """
    if p < 0.001:
        return "< 0.001"
    return f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def quantity(value: float) -> str:
    """Return a positive number to three significant digits, in powers of ten where it is long.

    Example:
        >>> quantity(1.1), quantity(349.2), quantity(1234567.0)
        ('1.10', '349', '1.23 × 10⁶')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent <= 4:
        return f"{value:.{max(0, 2 - exponent)}f}"
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa} × 10{str(int(power)).translate(_SUPERSCRIPT)}"


def cond(value: float) -> str:
    """Return a condition number for a sentence, and whether the matrix is singular as far as float32 can tell.

    Example:
        >>> cond(349.2), cond(3e19)
        ('349', '3.00 × 10¹⁹ (singular in float32)')
    """
    return quantity(value) + (" (singular in float32)" if SINGULAR < value < math.inf else "")


def count(value: int) -> str:
    """Return a count with thousands separated, such as `12,345`."""
    return f"{value:,}"


def times(number: int, noun: str) -> str:
    """Return a count with its noun.

    Example:
        >>> times(1, "epoch"), times(1200, "epoch")
        ('1 epoch', '1,200 epochs')
    """
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")


def budget(eps: float) -> str:
    """Return an eps as people write it: a short decimal, or a multiple of 1/255.

    Example:
        >>> budget(0.1), budget(8 / 255)
        ('0.1', '8/255')
    """
    short = f"{eps:.3g}"
    if math.isclose(float(short), eps):
        return short
    steps = Fraction(eps * 255).limit_denominator(10)
    if steps and math.isclose(float(steps) / 255, eps, rel_tol=1e-9):
        return f"{steps.numerator}/{255 * steps.denominator}"
    return short


def norm(name: str) -> str:
    """Return a norm's sign, such as `L∞` for `Linf`."""
    return _NORMS.get(name, name)


def listing(names: list[str]) -> str:
    """Join names as a sentence does.

    Example:
        >>> listing(["FGSM", "PGD", "AutoAttack"])
        'FGSM, PGD and AutoAttack'
    """
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
