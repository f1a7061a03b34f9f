"""The clean pass shows logits and gradients on inputs that nobody has touched."""

from robust_lowrank.evaluation.audit.evidence import Check, Evidence, finding, graded
from robust_lowrank.records import AuditFinding

ZERO_GRADIENTS_WARN, ZERO_GRADIENTS_FAIL = 0.01, 0.1  # shares of the correctly classified examples


def _nonfinite(evidence: Evidence) -> AuditFinding:
    logits = int((~evidence.clean.finite).sum())
    gradients = int((evidence.clean.finite & ~evidence.clean.gradient_finite).sum())
    attacked = max((int((ledger.nonfinite & ledger.clean.finite).sum()) for ledger in evidence.ledgers), default=0)
    return finding(
        "finite",
        "fail" if logits or gradients or attacked else "pass",
        f"logits are not finite on {logits} clean inputs, gradients on {gradients}; under attack {attacked} examples met such "
        "values (none of them counts as robust)",
        "find the layer that overflows or divides by 0 and evaluate again",
        passed="all logits and gradients are finite",
    )


def _zero_gradients(evidence: Evidence) -> AuditFinding | None:
    correct = int(evidence.clean.correct.sum())
    if correct == 0:
        return None
    zero = int((evidence.clean.gradient_zero & evidence.clean.correct).sum())
    message = f"the gradient is exactly 0 on {zero} of {correct} correctly classified inputs"
    return finding(
        "zero gradients",
        graded(zero / correct, ZERO_GRADIENTS_WARN, ZERO_GRADIENTS_FAIL),
        f"{message}: attacks on the cross-entropy are blind there",
        "use the suite 'standard'; if it finds much more, logits are too large or something in the model is not differentiable",
        passed=message,
    )


def _probabilities(evidence: Evidence) -> AuditFinding:
    return finding(
        "logits",
        "fail" if evidence.clean.probabilities else "pass",
        "every output row is non-negative and sums to 1: the model seems to end in a softmax, which flattens the gradients",
        "remove the softmax and return logits",
        passed="the outputs are not probabilities",
    )


def _repeatable(evidence: Evidence) -> AuditFinding:
    return finding(
        "deterministic",
        "pass" if evidence.clean.repeatable else "fail",
        "the same inputs gave other logits the second time: the model is randomised, and one evaluation says little",
        "switch the randomness off in eval mode, or attack the expectation over it",
        passed="the same inputs gave the same logits twice",
    )


def _weights(evidence: Evidence) -> AuditFinding:
    return finding(
        "unchanged weights",
        "pass" if evidence.weights_unchanged else "fail",
        "the network's state changed while it was evaluated",
        "keep buffers fixed in eval mode: the verdicts belong to no single network",
        passed="the attacked network is the evaluated one",
    )


CHECKS: tuple[Check, ...] = (_nonfinite, _zero_gradients, _probabilities, _repeatable, _weights)
