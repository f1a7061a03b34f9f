"""What was tried on a sample bounds what is left of the other examples, and what was tried at one eps implies what is at others."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from robust_lowrank.evaluation.attacks.aa_fast import AAFast
from robust_lowrank.evaluation.attacks.aa_native import AANative
from robust_lowrank.evaluation.unit_result import IMPLIED, SAMPLED
from robust_lowrank.statistics import most_in_population

FAST, FULL = (str(kind.model_fields["attack"].default) for kind in (AAFast, AANative))


class Account(NamedTuple):
    """The verdicts of one attack at one eps: of every example whether it is robust, and its flags."""

    kind: str
    robust: Sequence[bool]
    flags: Sequence[Iterable[str]]
    undecided: int  # examples for which the budget did not suffice


def hidden_by(account: Account) -> int | None:
    """Return how many of the robust examples the ensemble would break at most, with 95 % confidence; None without a sample.

    Those outside the sample are what the rest of the population is; one whose break was claimed and not confirmed could not be
    drawn and counts as hidden. While examples are undecided there is no limit, since what is decided is no random part.

    Example:
        >>> hidden_by(Account("aa-fast", [True, True, False], [["sampled"], [], ["by=apgd-pm"]], 0))
        1
    """
    if account.kind != FAST or account.undecided:
        return None
    sampled = [SAMPLED in flags for flags in account.flags]
    found = sum(chosen and not held for chosen, held in zip(sampled, account.robust, strict=True))
    others = [set(flags) for flags, chosen, held in zip(account.flags, sampled, account.robust, strict=True) if held and not chosen]
    claimed = sum("claim-rejected" in flags for flags in others)
    population = sum(sampled) + len(others) - claimed
    return most_in_population(found, sum(sampled), population) - found + claimed


def implied_of(accounts: Sequence[Account]) -> int:
    """Return how many examples are robust under all attacks at one eps, and under one of them because they are at a larger eps.

    The accounts have the same examples; of damaged ones, which have not, those of the shortest count.

    Example:
        >>> implied_of([Account("curve", [True, True, False], [["implied-by=0.2"], [], []], 0)])
        1
    """
    robust = zip(*(account.robust for account in accounts), strict=False)
    flags = zip(*(account.flags for account in accounts), strict=False)
    implied = (any(flag.startswith(IMPLIED) for own in each for flag in own) for each in flags)
    return sum(all(held) and chosen for held, chosen in zip(robust, implied, strict=True))


def hidden_in_worst(correct: int, accounts: Sequence[Account]) -> int | None:
    """Return the same of the worst case over attacks at one eps; None where the ensemble itself was tried on all that is left."""
    limits = [limit for account in accounts if (limit := hidden_by(account)) is not None]
    if not limits or any(account.undecided or account.kind == FULL for account in accounts):
        return None
    return min(*limits, correct)
