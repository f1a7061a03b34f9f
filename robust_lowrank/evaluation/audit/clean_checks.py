"""The clean pass shows logits and gradients on inputs that nobody has touched."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from robust_lowrank.evaluation.audit.evidence import Evidence, finding, graded

if TYPE_CHECKING:
    from robust_lowrank.records import AuditFinding

ZERO_GRADIENTS_WARN, ZERO_GRADIENTS_FAIL = 0.01, 0.1  # shares of the correctly classified examples


def _nonfinite(evidence: Evidence) -> "AuditFinding":
    logits = int((~evidence.clean.finite).sum())
    gradients = int((evidence.clean.finite & ~evidence.clean.gradient_finite).sum())
    attacked = max((int((ledger.nonfinite & ledger.clean.finite).sum()) for ledger in evidence.ledgers), default=0)
    if not (logits or gradients or attacked):
        return finding("finite", "pass", "all logits and gradients are finite")
    return finding(
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
    status = graded(zero / correct, ZERO_GRADIENTS_WARN, ZERO_GRADIENTS_FAIL)
    message = f"the gradient is exactly 0 on {zero} of {correct} correctly classified inputs"
    if status == "pass":
        return finding("zero gradients", "pass", message)
    return finding(
        "zero gradients",
        status,
        f"{message}: attacks on the cross-entropy are blind there",
        "use the suite 'standard'; if it finds much more, logits are too large or something in the model is not differentiable",
    )


def _probabilities(evidence: Evidence) -> "AuditFinding":
    if not evidence.clean.probabilities:
        return finding("logits", "pass", "the outputs are not probabilities")
    return finding(
        "logits",
        "fail",
        "every output row is non-negative and sums to 1: the model seems to end in a softmax, which flattens the gradients",
        "remove the softmax and return logits",
    )


def _repeatable(evidence: Evidence) -> "AuditFinding":
    if evidence.clean.repeatable:
        return finding("deterministic", "pass", "the same inputs gave the same logits twice")
    return finding(
        "deterministic",
        "fail",
        "the same inputs gave other logits the second time: the model is randomised, and one evaluation says little",
        "switch the randomness off in eval mode, or attack the expectation over it",
    )


def _weights(evidence: Evidence) -> "AuditFinding":
    if evidence.weights_unchanged:
        return finding("unchanged weights", "pass", "the attacked network is the evaluated one")
    return finding(
        "unchanged weights",
        "fail",
        "the network's state changed while it was evaluated",
        "keep buffers fixed in eval mode: the verdicts belong to no single network",
    )


CHECKS: "tuple[Callable[[Evidence], AuditFinding | None], ...]" = (
    _nonfinite,
    _zero_gradients,
    _probabilities,
    _repeatable,
    _weights,
)
