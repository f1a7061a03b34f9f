"""What bears AutoAttack's name must have cost what its published steps imply."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from robust_lowrank.evaluation.attacks.apgd import TARGETS
from robust_lowrank.evaluation.audit.evidence import Evidence, finding
from robust_lowrank.evaluation.ledger import Ledger

if TYPE_CHECKING:
    from robust_lowrank.records import AuditFinding

TOLERANCE = 0.02
_STEPS, _QUERIES = 100, 5000  # of APGD and FAB, and of Square


class Passes(NamedTuple):
    """Evaluations of the model and of its gradient spent on one example."""

    forwards: int
    backwards: int


def published(targets: int) -> Passes:
    """Return what AutoAttack standard costs on an example that it does not break.

    APGD looks at its start and at 100 steps, on the cross-entropy and for every target; FAB takes a gradient in each of 100 steps
    for every target and then looks at where it came to; Square has 5,000 queries.

    Example:
        >>> published(9)
        Passes(forwards=7810, backwards=1910)

    Source: Croce and Hein 2020 (arXiv 2003.01690), section 6 and appendix.
    """
    apgd, fab = (1 + targets) * (_STEPS + 1), targets * _STEPS
    return Passes(apgd + 2 * fab + _QUERIES, apgd + fab)


def _pass_counts(evidence: Evidence) -> "AuditFinding | None":
    due = published(min(TARGETS, evidence.classes - 1))
    if evidence.norm == "L1":  # there the published ensemble has other restarts and targets
        return None
    ledgers = [ledger for ledger in evidence.ledgers if _is_standard(ledger.attack)]
    held = sum(int(ledger.robust.sum()) for ledger in ledgers)
    if not held:
        return None
    short = sum(_deviating(ledger, due) for ledger in ledgers)
    implied = f"{due.forwards} evaluations and {due.backwards} gradients that the published steps imply"
    if not short:
        return finding("pass counts", "pass", f"every robust example cost the {implied}, within {TOLERANCE:.0%}")
    return finding(
        "pass counts",
        "fail",
        f"{short} of {held} robust examples did not cost the {implied}, within {TOLERANCE:.0%}: this is not AutoAttack standard",
        "do not quote it under that name; run the suite 'standard' with the pinned pyautoattack again",
    )


def _is_standard(attack: str) -> bool:
    return attack.startswith(("autoattack", "aa-native")) and not attack.startswith(("autoattack-plus", "autoattack-rand"))


def _deviating(ledger: Ledger, due: Passes) -> int:
    forwards, backwards = ledger.forwards[ledger.robust], ledger.backwards[ledger.robust]
    off = ((forwards - due.forwards).abs() > TOLERANCE * due.forwards) | (
        (backwards - due.backwards).abs() > TOLERANCE * due.backwards
    )
    return int(off.sum())


CHECKS: "tuple[Callable[[Evidence], AuditFinding | None], ...]" = (_pass_counts,)
