"""Rules of pooling: means are linear and separable, maxima count an entry as often as there are windows with it."""

import math
from collections.abc import Callable

from robust_lowrank.conditioning import constants
from robust_lowrank.conditioning.rules.call import Call, Rule, along


def _windows(call: Call, sizes: int, along_one: Callable[[int, int], float]) -> float:
    """Return the product of a pooling's constants along its directions."""
    extents = call.given["self"].shape[-sizes:]
    return call.scaled(math.prod(along_one(axis, extent) for axis, extent in enumerate(extents)), "self")


def mean_pool(directions: int) -> Rule:
    """Return the rule of means over windows, in one direction or two."""

    def rule(call: Call) -> float:
        kernel, padding = call.given["kernel_size"], call.given["padding"]
        stride, divisor = call.given["stride"] or kernel, call.given.get("divisor_override")
        whole = call.given["count_include_pad"] or divisor is not None

        def one(axis: int, extent: int) -> float:
            window, step, pad = (along(values, axis) for values in (kernel, stride, padding))
            norm = constants.mean_norm(extent, window, step, pad, ceil_mode=call.given["ceil_mode"], count_include_pad=whole)
            return norm if divisor is None else norm * window

        return _windows(call, directions, one) / (1 if divisor is None else abs(divisor))

    return rule


def max_pool(directions: int) -> Rule:
    """Return the rule of maxima over windows."""

    def rule(call: Call) -> float:
        kernel = call.given["kernel_size"]
        options = (kernel, call.given["stride"] or kernel, call.given["padding"], call.given["dilation"])

        def one(axis: int, extent: int) -> float:
            window, step, pad, dilation = (along(values, axis) for values in options)
            return constants.maximum_norm(extent, window, step, pad, dilation, ceil_mode=call.given["ceil_mode"])

        return _windows(call, directions, one)

    return rule


def adaptive_pool(directions: int, along_one: Callable[[int, int], float]) -> Rule:
    """Return the rule of windows that are as many as the outputs."""
    return lambda call: _windows(call, directions, lambda axis, extent: along_one(extent, along(call.given["output_size"], axis)))
