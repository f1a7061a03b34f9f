"""Systems are compared in pairs on the examples that all of them have."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robust_lowrank.errors import UserError, brief, shown, unknown_name
from robust_lowrank.logs.reading import Log
from robust_lowrank.statistics import Comparison, Interval, detectable, examples_to_see, pairwise, wilson

ALPHA = 0.05
POINT = 0.01
SYSTEMS = 100


class System(NamedTuple):
    """One system on the examples that are compared."""

    name: str
    path: Path
    kind: str
    metric: str
    sha256: str
    correct: int
    accuracy: Interval  # Wilson, 95 %


class Paired(NamedTuple):
    """All comparisons that are made together: one family for Holm."""

    examples: int
    left_out: int  # examples that some of the systems lack
    systems: tuple[System, ...]
    comparisons: tuple[Comparison, ...]
    discordance: float  # share of the examples on which one is right and the other wrong, mean over the pairs
    smallest: float | None  # difference that is found with a probability of 80 %; None: not even the largest is
    needed: int  # examples that show a difference of one point with the same probability


def better(comparison: Comparison) -> str | None:
    """Return the system that is better, where the corrected p-value is below 5 %."""
    if comparison.p_holm >= ALPHA:
        return None
    return comparison.a if comparison.difference.value > 0 else comparison.b


def compare(logs: Mapping[str, Log], *, baseline: str | None = None, common: bool = False) -> Paired:
    """Compare every two systems, or all others with a baseline: exact McNemar tests, Holm-corrected over all of them.

    Args:
        logs: by the names of the systems.
        baseline: the name of one of them.
        common: compare on the examples that all of them have; without it none may lack one.

    Raises:
        UserError: there are fewer than two systems, examples are missing, or under one name different things were asked.
    """
    if not 2 <= len(logs) <= SYSTEMS:
        raise UserError(f"a comparison takes 2 to {SYSTEMS} logs, not {len(logs)}: give one for each system")
    if baseline is not None and baseline not in logs:
        raise unknown_name("system", baseline, logs)
    examples, left_out = _shared(logs, common)
    _require_same_subjects(logs, examples)
    verdicts = {name: np.fromiter((log.right[each] for each in examples), bool, len(examples)) for name, log in logs.items()}
    pairs = list(combinations(logs, 2)) if baseline is None else [(name, baseline) for name in logs if name != baseline]
    comparisons = pairwise(verdicts, pairs=pairs)
    discordance = sum(each.only_a + each.only_b for each in comparisons) / len(comparisons) / len(examples)
    alpha = ALPHA / len(comparisons)
    return Paired(
        len(examples),
        left_out,
        tuple(
            System(name, log.path, log.kind, log.metric, log.sha256, int(right.sum()), wilson(int(right.sum()), len(right)))
            for (name, log), right in zip(logs.items(), verdicts.values(), strict=True)
        ),
        tuple(comparisons),
        discordance,
        _smallest(len(examples), discordance, alpha),
        examples_to_see(POINT, discordance=discordance, alpha=alpha),
    )


def power(paired: Paired) -> str:
    """Say which differences so many examples can show between systems that disagree as often as these do.

    Counted at the strictest level of Holm's correction, so that it holds for every comparison.
    """
    if paired.smallest is None:
        return f"{paired.examples:,} examples are too few to show any difference, however large."
    return (
        f"With power 80 %, {paired.examples:,} examples show differences from {100 * paired.smallest:.1f} points on, and 1 point "
        f"takes {paired.needed:,} examples (p corrected, for systems that disagree on {100 * paired.discordance:.1f} % of the "
        "examples, as these do on average)."
    )


def _shared(logs: Mapping[str, Log], common: bool) -> tuple[list[str], int]:
    """Return the examples that all logs have, in the order of the first, and how many others there are."""
    every = dict.fromkeys(example for log in logs.values() for example in log.right)
    shared = [example for example in every if all(example in log.right for log in logs.values())]
    if len(shared) == len(every) or (common and shared):
        return shared, len(every) - len(shared)
    if not shared:
        first = {name: next(iter(log.right)) for name, log in logs.items()}
        seen = ", ".join(f"{shown(name)} has {brief(example)}" for name, example in list(first.items())[:3])
        raise UserError(
            f"no example is in all of the {len(logs)} logs: {seen}\nGive logs of one task, with the same names for examples"
        )
    name, log = min(logs.items(), key=lambda item: len(item[1].right))
    lacking = next(example for example in every if example not in log.right)
    unscored = f", {log.unscored} of them without a score" if log.unscored else ""
    others = sum(len(other.right) < len(every) for other in logs.values()) - 1
    also = f"; {others} other log{'s' if others > 1 else ''} lack some too" if others else ""
    raise UserError(
        f"{shown(name)} lacks {len(every) - len(log.right):,} of {len(every):,} examples{unscored}, such as {brief(lacking)}"
        f"{also}\n"
        f"To compare on the {len(shared):,} that all have: --common"
    )


def _require_same_subjects(logs: Mapping[str, Log], examples: list[str]) -> None:
    """Require that logs of one kind mean the same by an example's name, where they say what they mean.

    Raises:
        UserError: they do not.
    """
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for name, log in logs.items():
        for example in examples:
            subject = log.subjects.get(example)
            if subject and (found := first.setdefault((log.kind, example), (name, subject)))[1] != subject:
                raise UserError(
                    f"the example {brief(example)} of {shown(name)} is another than that of {shown(found[0])}: their logs are of "
                    "different tasks, or of different versions of one\nGive logs of the same examples"
                )


def _smallest(examples: int, discordance: float, alpha: float) -> float | None:
    try:
        return detectable(examples, discordance=discordance, alpha=alpha)
    except UserError:
        return None
