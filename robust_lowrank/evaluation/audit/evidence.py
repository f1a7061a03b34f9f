"""Evidence is what an evaluation leaves behind for its audit."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from robust_lowrank.evaluation.audit.probes import Probes
from robust_lowrank.evaluation.clean import Clean
from robust_lowrank.evaluation.ledger import Ledger
from robust_lowrank.records import AuditFinding

SLACK = 0.01  # share of all examples, and at least one, by which an attack may find less than it should without a warning
Status = Literal["pass", "warn", "fail"]


class Evidence(NamedTuple):
    """The parts of an evaluation that are audited."""

    clean: Clean
    classes: int
    ledgers: Sequence[Ledger]  # in the order in which they ran
    weights_unchanged: bool
    probes: Probes | None = None  # None: no extra attacks were run, and the checks on them are left out
    norm: str = "Linf"


Check = Callable[[Evidence], AuditFinding | None]


def finding(check: str, status: Status, message: str, remedy: str, *, passed: str = "") -> AuditFinding:
    """Return what a check found: with status pass `passed` takes the place of the message, and there is no remedy."""
    if status == "pass":
        return AuditFinding(check=check, status=status, message=passed or message)
    return AuditFinding(check=check, status=status, message=message, remedy=remedy)


def graded(share: float, warn: float, fail: float) -> Status:
    """Return pass below `warn`, warn from there and fail from `fail`."""
    if share < warn:
        return "pass"
    return "warn" if share < fail else "fail"


def exceeds(count: int, other: int, evidence: Evidence) -> bool:
    """Say whether a count of examples is above another one by more than chance explains."""
    return count - other > max(1, SLACK * len(evidence.clean.labels))
