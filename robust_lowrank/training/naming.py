"""What a method is called in reports, and in the names of directories."""

import re

from robust_lowrank.methods import SVD, CondLR, Vanilla
from robust_lowrank.training.config import DENSE, BudgetTable, MethodConfig, RankTable


def describe(method: MethodConfig) -> str:
    """Return what reports call a method: its label, or its name with tau and the other options that were given.

    Example:
        >>> describe(MethodConfig(name="condlr", tau=0.1, precond="none"))
        'CondLR τ=0.1, precond none'
    """
    if method.label is not None:
        return method.label
    if method.name == DENSE:
        return ", ".join(["Dense", *_schedule(method, " ")])
    made = method.method()
    match made:
        case CondLR(bound=tau):
            title = f"CondLR τ={'∞' if tau == float('inf') else f'{tau:g}'}"
        case SVD():
            title = "SVD after training"
        case Vanilla():
            title = "Vanilla low-rank"
        case _:
            title = type(made).__name__
    said = ("tau", "cond") if isinstance(made, CondLR) else ()
    options = [f"{key} {value}" for key, value in method.options.items() if key not in said]
    return ", ".join([title, *options, *_schedule(method, " ")])


def _schedule(method: MethodConfig, gap: str) -> list[str]:
    """Return what differs from the exact schedule without penalties."""
    parts = []
    if method.integration != "exact":
        parts.append(method.integration if method.window is None else f"{method.integration}{gap}{method.window}")
    if method.moments != "transport":
        parts.append(f"moments{gap}{method.moments}")
    parts += [f"{penalty.form}{gap}{penalty.weight:g}{gap}on{gap}{penalty.on}" for penalty in method.penalties]
    return parts


def _rank(rank: int | float | RankTable | BudgetTable) -> str:
    if not isinstance(rank, RankTable | BudgetTable):
        return f"rank{rank}"
    entries = rank.model_dump(exclude_defaults=True)
    flat = {key: value for key, value in entries.items() if key != "overrides"} | entries.get("overrides", {})
    return "-".join(["rank", *(f"{key}{value}" for key, value in flat.items())])


def directory_name(method: MethodConfig) -> str:
    """Return a name made of method, options and rank, of letters, digits, dots, hyphens and underscores.

    Example:
        >>> directory_name(MethodConfig(name="condlr", tau=0.1, rank=0.2))
        'condlr-tau0.1-rank0.2'
    """
    parts = [method.name, *(f"{key}{value}" for key, value in sorted(method.options.items()))]
    if method.rank is not None:
        parts.append(_rank(method.rank))
    if method.exclude is not None:
        parts.append("-".join(["exclude", *method.exclude]))
    parts += _schedule(method, "")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))
