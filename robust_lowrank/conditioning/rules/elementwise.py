"""Rules of calls that change entries one by one, add or multiply them, or reduce them."""

import math

from robust_lowrank.conditioning import constants
from robust_lowrank.conditioning.constants import Unbounded
from robust_lowrank.conditioning.rules.call import Call, Rule, magnitude, product


def slope(constant: float, name: str = "self") -> Rule:
    """Return the rule of a function of one argument that is nowhere steeper than a constant."""
    return lambda call: call.scaled(constant, name)


def leaky(call: Call) -> float:
    """Bound a leaky ReLU by the larger of its two slopes."""
    return call.scaled(max(1.0, abs(call.given["negative_slope"])), "self")


def rrelu(call: Call) -> float:
    """Bound a randomised leaky ReLU, which in evaluation mode takes the mean slope."""
    if call.given["training"]:
        raise Unbounded("it draws slopes at random")
    return call.scaled(max(1.0, abs(call.given["lower"] + call.given["upper"]) / 2), "self")


def elu(call: Call) -> float:
    """Bound an ELU by its slopes on both sides of 0."""
    alpha, scale, inner = (abs(call.given[name]) for name in ("alpha", "scale", "input_scale"))
    if call.given["input_scale"] < 0:
        raise Unbounded("elu of a negative input scale")
    return call.scaled(scale * max(1.0, alpha * inner), "self")


def celu(call: Call) -> float:
    """Bound a CELU, nowhere steeper than 1 for a positive alpha."""
    if call.given["alpha"] <= 0:
        raise Unbounded("celu with an alpha that is not positive")
    return call.scaled(1.0, "self")


def softplus(call: Call) -> float:
    """Bound softplus, unless it jumps."""
    return call.scaled(constants.softplus(call.given["beta"], call.given["threshold"]), "self")


def prelu(call: Call) -> float:
    """Bound a PReLU by its largest slope."""
    return call.scaled(max(1.0, magnitude(call.given["weight"])), "self")


def log_softmax(call: Call) -> float:
    """Bound the logarithm of softmax: its Jacobian I - 1 p^T has norm sqrt(n) |p|, at most sqrt(n)."""
    return call.scaled(math.sqrt(call.value.shape[call.given["dim"]]), "self")  # |I - 1 p^T| = sqrt(n) |p|


def sum_of_two(call: Call) -> float:
    """Bound a sum or difference by the sum of both bounds."""
    call.only("self", "other")
    first, second = call.spread("self"), call.spread("other")
    alpha = abs(call.given.get("alpha", 1))
    if "rsub" in call.name:
        return product(alpha, first) + second
    return first + product(alpha, second)


def limited(call: Call) -> float:
    """Bound a restriction to limits that may have more entries than what they limit."""
    call.only("self")
    return call.spread("self")


def extreme_of_two(call: Call) -> float:
    """Bound the larger or smaller of two: each entry is one of theirs."""
    call.only("self", "other")
    return math.hypot(call.spread("self"), call.spread("other"))


def product_of_two(call: Call) -> float:
    """Bound a product with a constant by its largest factor."""
    call.only("self", "other")
    if len(call.bounds) == 2:
        raise Unbounded("a product of two values that both depend on the input")
    (varying,) = call.bounds
    return product(magnitude(call.given["other" if varying == "self" else "self"]), call.spread(varying))


def quotient(call: Call) -> float:
    """Bound a division by a constant by its smallest divisor."""
    if call.given.get("rounding_mode") is not None:
        raise Unbounded("a division that rounds")
    if "other" in call.bounds:
        raise Unbounded("a division by a value that depends on the input")
    least = magnitude(call.given["other"], least=True)
    return product(1 / least, call.spread("self"))


def mean_of_entries(call: Call) -> float:
    """Bound means over k entries by 1 / sqrt(k)."""
    return call.scaled(1 / math.sqrt(_reduced(call)), "self")


def sum_of_entries(call: Call) -> float:
    """Bound sums over k entries by sqrt(k)."""
    return call.scaled(math.sqrt(_reduced(call)), "self")


def _reduced(call: Call) -> float:
    """Return how many entries become one."""
    return call.given["self"].numel() / call.value.numel()


def euclidean(call: Call) -> float:
    """Bound Euclidean norms by 1."""
    order = call.given.get("ord", call.given.get("p"))
    if order not in (2, None, "fro"):
        raise Unbounded(f"a norm of order {order}")
    return call.scaled(1.0, "self")


def dropout(call: Call) -> float:
    """Bound dropout that is off."""
    if call.given["train"]:
        raise Unbounded("dropout that is on in evaluation mode")
    return call.scaled(1.0, "input")
