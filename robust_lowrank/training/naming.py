"""What a method is called in reports, and in the names of directories."""

import re

from robust_lowrank.methods import CondLR, Vanilla
from robust_lowrank.training.config import DENSE, MethodConfig


def describe(method: MethodConfig) -> str:
    """Return what reports call a method: its label, or its name with tau and the other options that were given.

    Example:
        >>> describe(MethodConfig(name="condlr", tau=0.1, precond="none"))
        'CondLR τ=0.1, precond none'
    """
    if method.label is not None:
        return method.label
    if method.name == DENSE:
        return "Dense"
    made = method.method()
    match made:
        case CondLR(tau=tau):
            title = f"CondLR τ={'∞' if tau == float('inf') else f'{tau:g}'}"
        case Vanilla():
            title = "Vanilla low-rank"
        case _:
            title = type(made).__name__
    return ", ".join([title, *(f"{key} {value}" for key, value in method.options.items() if key != "tau")])


def directory_name(method: MethodConfig) -> str:
    """Return a name made of method, options and rank, of letters, digits, dots, hyphens and underscores.

    Example:
        >>> directory_name(MethodConfig(name="condlr", tau=0.1, rank=0.2))
        'condlr-tau0.1-rank0.2'
    """
    parts = [method.name, *(f"{key}{value}" for key, value in sorted(method.options.items()))]
    if method.rank is not None:
        parts.append(f"rank{method.rank}")
    if method.exclude is not None:
        parts.append("-".join(["exclude", *method.exclude]))
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))
