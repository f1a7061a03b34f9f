"""Signs that a robust accuracy is not what it seems, each with a remedy."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from robust_lowrank.evaluation.clean import Clean
from robust_lowrank.evaluation.engines.autoattack import STANDARD_TARGETS
from robust_lowrank.evaluation.ledger import Ledger

if TYPE_CHECKING:
    from robust_lowrank.records import AuditFinding

ZERO_GRADIENTS_WARN, ZERO_GRADIENTS_FAIL = 0.01, 0.1  # shares of the correctly classified examples
SLACK = 0.01  # share of all examples, and at least one, by which an attack may find less than it should without a warning


class Evidence(NamedTuple):
    """What an evaluation leaves behind for its audit."""

    clean: Clean
    classes: int
    ledgers: Sequence[Ledger]  # in the order in which they ran
    weights_unchanged: bool


def audit(evidence: Evidence) -> "list[AuditFinding]":
    """Return one finding a check; checks that have nothing to look at are left out."""
    return [finding for check in _CHECKS if (finding := check(evidence)) is not None]


def _finding(check: str, status: Literal["pass", "warn", "fail"], message: str, remedy: str = "") -> "AuditFinding":
    from robust_lowrank.records import AuditFinding

    return AuditFinding(check=check, status=status, message=message, remedy=remedy)


def _nonfinite(evidence: Evidence) -> "AuditFinding":
    logits = int((~evidence.clean.finite).sum())
    gradients = int((evidence.clean.finite & ~evidence.clean.gradient_finite).sum())
    attacked = max((int((ledger.nonfinite & ledger.clean.finite).sum()) for ledger in evidence.ledgers), default=0)
    if not (logits or gradients or attacked):
        return _finding("finite", "pass", "all logits and gradients are finite")
    return _finding(
        "finite",
        "fail",
        f"logits are not finite on {logits} clean inputs, gradients on {gradients}; under attack {attacked} examples met such "
        "values (none of them counts as robust)",
        "find the layer that overflows or divides by 0 and evaluate again",
    )


def _zero_gradients(evidence: Evidence) -> "AuditFinding | None":
    correct = int(evidence.clean.correct.sum())
    if correct == 0:
        return None
    zero = int((evidence.clean.gradient_zero & evidence.clean.correct).sum())
    share = zero / correct
    message = f"the gradient is exactly 0 on {zero} of {correct} correctly classified inputs"
    if share < ZERO_GRADIENTS_WARN:
        return _finding("zero gradients", "pass", message)
    return _finding(
        "zero gradients",
        "warn" if share < ZERO_GRADIENTS_FAIL else "fail",
        f"{message}: attacks on the cross-entropy are blind there",
        "use the suite 'standard'; if it finds much more, logits are too large or something in the model is not differentiable",
    )


def _probabilities(evidence: Evidence) -> "AuditFinding":
    if not evidence.clean.probabilities:
        return _finding("logits", "pass", "the outputs are not probabilities")
    return _finding(
        "logits",
        "fail",
        "every output row is non-negative and sums to 1: the model seems to end in a softmax, which flattens the gradients",
        "remove the softmax and return logits",
    )


def _repeatable(evidence: Evidence) -> "AuditFinding":
    if evidence.clean.repeatable:
        return _finding("deterministic", "pass", "the same inputs gave the same logits twice")
    return _finding(
        "deterministic",
        "fail",
        "the same inputs gave other logits the second time: the model is randomised, and one evaluation says little",
        "switch the randomness off in eval mode, or attack the expectation over it",
    )


def _weights(evidence: Evidence) -> "AuditFinding":
    if evidence.weights_unchanged:
        return _finding("unchanged weights", "pass", "the attacked network is the evaluated one")
    return _finding(
        "unchanged weights",
        "fail",
        "the network's state changed while it was evaluated",
        "keep buffers fixed in eval mode: the verdicts belong to no single network",
    )


def _classes(evidence: Evidence) -> "AuditFinding | None":
    upstream = {ledger.attack for ledger in evidence.ledgers if ledger.engine == "pyautoattack"}
    names = sorted(name for name in upstream if not name.startswith("autoattack-rand"))
    if not names or evidence.classes > STANDARD_TARGETS:
        return None
    return _finding(
        "targets",
        "warn",
        f"AutoAttack has {STANDARD_TARGETS} target classes, {evidence.classes} classes allow {evidence.classes - 1}: "
        f"this ran as {', '.join(names)}",
        "quote it under that name",
    )


def _claims(evidence: Evidence) -> "AuditFinding":
    rejected = sum(
        "claim-rejected" in flags
        for ledger in evidence.ledgers
        for flags, robust in zip(ledger.flags, ledger.robust, strict=True)
        if robust
    )
    if not rejected:
        return _finding("claims", "pass", "every success that an attack claimed was confirmed")
    return _finding(
        "claims",
        "warn",
        f"{rejected} successes that an attack claimed were not confirmed and count as robust: they lie on a tie or on rounding",
        "evaluate in float64, or treat these examples as broken",
    )


def _pgd_against_fgsm(evidence: Evidence) -> "AuditFinding | None":
    robust = {
        (ledger.attack.split("-")[0], ledger.eps): int(ledger.robust.sum()) for ledger in evidence.ledgers if ledger.independent
    }
    pairs = [(robust["fgsm", eps], robust["pgd", eps], eps) for name, eps in robust if name == "pgd" and ("fgsm", eps) in robust]
    if not pairs:
        return None
    worse = [f"{pgd} against {fgsm} at eps {eps:.4g}" for fgsm, pgd, eps in pairs if _exceeds(pgd, fgsm, evidence)]
    if not worse:
        return _finding("PGD against FGSM", "pass", "PGD finds what FGSM finds and more, up to chance")
    return _finding(
        "PGD against FGSM",
        "warn",
        f"PGD leaves more examples robust than FGSM ({'; '.join(worse)}): a sign of masked gradients or of too few steps",
        "give PGD more steps and restarts, and use the suite 'standard'",
    )


def _monotone_in_eps(evidence: Evidence) -> "AuditFinding | None":
    by_attack: dict[str, list[Ledger]] = {}
    for ledger in evidence.ledgers:
        by_attack.setdefault(ledger.attack, []).append(ledger)
    steps = [step for ledgers in by_attack.values() for step in pairwise(sorted(ledgers, key=lambda ledger: ledger.eps))]
    if not steps:
        return None
    rising = [
        f"{large.attack} from {int(small.robust.sum())} at {small.eps:.4g} to {int(large.robust.sum())} at {large.eps:.4g}"
        for small, large in steps
        if _exceeds(int(large.robust.sum()), int(small.robust.sum()), evidence)
    ]
    if not rising:
        return _finding("monotone in eps", "pass", "a larger eps leaves no more examples robust, up to chance")
    return _finding(
        "monotone in eps",
        "warn",
        f"a larger eps leaves more examples robust ({'; '.join(rising)}): single steps overshoot, or gradients are masked",
        "trust the worst case over the suite, and use attacks of several steps",
    )


def _exceeds(count: int, other: int, evidence: Evidence) -> bool:
    return count - other > max(1, SLACK * len(evidence.clean.labels))


_CHECKS: "tuple[Callable[[Evidence], AuditFinding | None], ...]" = (
    _nonfinite,
    _zero_gradients,
    _probabilities,
    _repeatable,
    _weights,
    _classes,
    _claims,
    _pgd_against_fgsm,
    _monotone_in_eps,
)
