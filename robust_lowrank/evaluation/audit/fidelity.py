"""What bears AutoAttack's name must have cost what its published steps imply."""

from typing import NamedTuple

from robust_lowrank.evaluation.attacks.apgd import TARGETS
from robust_lowrank.evaluation.attacks.registry import ATTACKS
from robust_lowrank.evaluation.attacks.upstream.autoattack import VARIANTS
from robust_lowrank.evaluation.audit.evidence import Evidence, finding
from robust_lowrank.evaluation.ledger import Ledger
from robust_lowrank.records import AuditFinding

ENSEMBLES: tuple[str, ...] = tuple(name for name, kind in ATTACKS.items() if kind.ensemble)

BOUNDED: tuple[str, ...] = tuple(name for name, kind in ATTACKS.items() if kind.samples)  # try their parts on a sample alone

TOLERANCE = 0.02
_STEPS, _QUERIES = 100, 5000  # of APGD and FAB, and of Square


class Passes(NamedTuple):
    """Evaluations of the model and of its gradient spent on one example."""

    forwards: int
    backwards: int


def published(classes: int) -> Passes:
    """Return what AutoAttack standard costs on an example that it does not break.

    APGD looks at its start and at 100 steps, on the cross-entropy and for every target; FAB takes a gradient in each of 100 steps
    for every target and then looks at where it came to; Square has 5,000 queries. The targeted loss of APGD needs four classes:
    with three it runs once, without a target, and with two not at all.

    Example:
        >>> published(10), published(2)
        (Passes(forwards=7810, backwards=1910), Passes(forwards=5301, backwards=201))

    Source: Croce and Hein 2020 (arXiv 2003.01690), section 6 and appendix.
    """
    targets = min(TARGETS, classes - 1)
    apgd, fab = (1 + targets - (classes < 4)) * (_STEPS + 1), targets * _STEPS
    return Passes(apgd + 2 * fab + _QUERIES, apgd + fab)


def pass_counts(evidence: Evidence) -> AuditFinding | None:
    """Judge the cost of the robust examples under what is AutoAttack standard by its name."""
    due = published(evidence.classes)
    others = VARIANTS + BOUNDED
    standard = (one for one in evidence.ledgers if one.attack.startswith(ENSEMBLES) and not one.attack.startswith(others))
    ledgers = list(standard) if evidence.norm != "L1" else []  # there the published ensemble has other restarts and targets
    held = sum(int(ledger.robust.sum()) for ledger in ledgers)
    if not held:
        return None
    short = sum(_deviating(ledger, due) for ledger in ledgers)
    implied = f"{due.forwards} evaluations and {due.backwards} gradients that the published steps imply"
    return finding(
        "pass counts",
        "fail" if short else "pass",
        f"{short} of {held} robust examples did not cost the {implied}, within {TOLERANCE:.0%}: this is not AutoAttack standard",
        "do not quote it under that name; run the suite 'standard' with the pinned pyautoattack again",
        passed=f"every robust example cost the {implied}, within {TOLERANCE:.0%}",
    )


def _deviating(ledger: Ledger, due: Passes) -> int:
    forwards, backwards = ledger.forwards[ledger.robust], ledger.backwards[ledger.robust]
    off = ((forwards - due.forwards).abs() > TOLERANCE * due.forwards) | (
        (backwards - due.backwards).abs() > TOLERANCE * due.backwards
    )
    return int(off.sum())
