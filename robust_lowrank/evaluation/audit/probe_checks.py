"""The probes show small extra attacks beside one another, and how the model takes its inputs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from robust_lowrank.evaluation.audit.evidence import Evidence, finding, graded
from robust_lowrank.evaluation.audit.probes import DRAWS, FEW, MANY, RESTARTS, SCALES, Probes

if TYPE_CHECKING:
    from robust_lowrank.records import AuditFinding

CHANCE = 4  # examples by which two small attacks may differ without a warning
SMALL, LARGE = 0.05, 0.2  # shares of the probed examples that bring a warning and a failure
NARROW = 0.5  # range of the features below which inputs seem to be scaled wrongly


def _more(check: str, weaker: str, stronger: str, gain: int, total: int, remedy: str) -> "AuditFinding":
    """Return the finding on examples that a weaker attack breaks and a stronger one does not."""
    message = f"{weaker} breaks {gain} of {total} probed examples that {stronger} does not"
    status = "pass" if gain <= CHANCE else graded(gain / total, SMALL, LARGE)
    return finding(check, status, message, "" if status == "pass" else remedy)


def _saturated(probes: Probes) -> "AuditFinding | None":
    total = _total(probes)
    if not total:
        return None
    vanished, saturated = int(probes.attacked.vanished.sum()), int(probes.attacked.saturated.sum())
    message = (
        f"the label's softmax is 1 to the last digit on {saturated} of {total} probed examples, and the gradient vanishes on "
        f"{vanished} where that of smaller logits does not"
    )
    suspicious = vanished > CHANCE or 2 * saturated > total
    status = "fail" if vanished >= LARGE * total else "warn" if suspicious else "pass"
    return finding(
        "saturated gradients",
        status,
        message,
        "" if status == "pass" else "divide the logits by a constant, or attack their differences (suite 'standard')",
    )


def _scale(probes: Probes) -> "AuditFinding | None":
    return _compared(
        probes,
        "logit scale",
        f"PGD on logits divided by {', '.join(f'{scale:g}' for scale in SCALES)}",
        "PGD on the logits as they are",
        probes.attacked.few & ~probes.attacked.rescaled,
        "the size of the logits masks the gradients: divide them by a constant, or attack their differences (suite 'standard')",
    )


def _steps(probes: Probes) -> "AuditFinding | None":
    return _compared(
        probes,
        "monotone in steps",
        f"PGD with {FEW} steps",
        f"PGD with {MANY}",
        probes.attacked.many & ~probes.attacked.few,
        "gradients lead nowhere: use attacks with several restarts and Square (suite 'standard')",
    )


def _restarts(probes: Probes) -> "AuditFinding | None":
    return _compared(
        probes,
        "restarts",
        f"PGD from {RESTARTS} starts",
        "PGD from the first of them",
        probes.attacked.few & ~probes.attacked.restarted,
        "the loss has many local maxima: use attacks with more restarts and smaller steps, and Square (suite 'standard')",
    )


def _transfer(probes: Probes) -> "AuditFinding | None":
    return _compared(
        probes,
        "PGD against transfer",
        f"PGD with {FEW} steps on the model smoothed by noise",
        f"PGD with {MANY} steps on the model itself",
        probes.attacked.many & ~probes.attacked.transferred,
        "a rugged layer hides the gradients: attack the smoothed model, and use Square (suite 'standard')",
    )


def _noise(probes: Probes) -> "AuditFinding | None":
    return _compared(
        probes,
        "PGD against noise",
        f"noise in {DRAWS} draws",
        f"PGD with {MANY} steps",
        probes.attacked.many & ~probes.attacked.noise,
        "gradients are masked: find what is not differentiable or saturates, and use the suite 'standard'",
    )


def _compared(probes: Probes, check: str, weaker: str, stronger: str, gained: Tensor, remedy: str) -> "AuditFinding | None":
    total = _total(probes)
    return _more(check, weaker, stronger, int(gained.sum()), total, remedy) if total else None


def _unbounded(probes: Probes) -> "AuditFinding | None":
    total = _total(probes)
    if not total:
        return None
    left = int(probes.attacked.far.sum())
    status = graded(left / total, 1 / total, SMALL)
    return finding(
        "eps to the limit",
        status,
        f"PGD leaves {left} of {total} probed examples robust at eps {probes.far_eps:.4g}, where every classifier breaks",
        "" if status == "pass" else "the attack does not work on this model: look for gradients that are 0, masked or wrong",
    )


def _direction(probes: Probes) -> "AuditFinding | None":
    total = _total(probes)
    if not total:
        return None
    right = int(probes.attacked.downhill.sum())
    status = graded(1 - right / total, 0.1, 0.25)
    return finding(
        "gradient direction",
        status,
        f"a short step along the gradient lowers the margin of {right} of {total} probed examples",
        ""
        if status == "pass"
        else "the gradient says nothing of the loss (rounding, detach, a rugged layer): attack a smoother model",
    )


def _piecewise_constant(probes: Probes) -> "AuditFinding | None":
    total = _total(probes)
    if not total or probes.constant:
        return None
    flat = int(probes.attacked.flat.sum())
    status = graded(flat / total, SMALL, LARGE) if flat > CHANCE else "pass"
    return finding(
        "smooth in the input",
        status,
        f"a tiny change of the input changes no logit of {flat} of {total} probed examples",
        "" if status == "pass" else "the model rounds its input or a layer's output: attack it with a differentiable stand-in",
    )


def _range(probes: Probes) -> "AuditFinding":
    right, (other, most) = probes.right["as they are"], max(probes.right.items(), key=lambda item: item[1])
    low, high = probes.lowest, probes.highest
    if probes.constant:
        message, remedy = "the model gives all inputs the same logits: it ignores them", "attack the trained network"
        return finding("inputs", "fail", message, remedy)
    if most - right > max(CHANCE, 0.1 * probes.looked_at):
        return finding(
            "inputs",
            "fail",
            f"the model gets {right} of {probes.looked_at} inputs right as they are, but {most} {other}",
            "put the normalisation that the model expects into the model, which takes inputs in [0, 1]",
        )
    if high - low < NARROW:
        return finding(
            "inputs",
            "warn",
            f"the features of the inputs lie in [{low:.3g}, {high:.3g}] only: eps is meant for a range of [0, 1]",
            "scale the inputs to [0, 1], or choose eps for their range",
        )
    return finding("inputs", "pass", f"inputs lie in [{low:.3g}, {high:.3g}], and the model takes them best as they are")


def _batch(probes: Probes) -> "AuditFinding":
    if probes.apart <= 1:
        return finding("batch", "pass", "an example has the same logits alone and within a batch, up to rounding")
    return finding(
        "batch",
        "fail",
        f"an example's logits within a batch differ from those alone by {probes.apart:.3g} times what rounding allows",
        "let BatchNorm use its running statistics, switch randomness off, and let no layer look at other examples",
    )


def _mode(probes: Probes) -> "AuditFinding":
    if not probes.training:
        return finding("evaluation mode", "pass", "every module is in evaluation mode")
    names = ", ".join(probes.training[:3]) + (", ..." if len(probes.training) > 3 else "")
    return finding(
        "evaluation mode",
        "fail",
        f"{len(probes.training)} modules are in training mode although the model was told to evaluate: {names}",
        "do not override train() or eval(); see that every module is registered",
    )


def _planted(probes: Probes) -> "AuditFinding":
    wrong = [
        f"{case.attack} broke {case.broken} of {case.breakable} that break and {case.claimed} of {case.safe} that cannot"
        for case in probes.planted
        if case.broken < case.breakable or case.claimed
    ]
    names = ", ".join(case.attack for case in probes.planted)
    if not wrong:
        return finding("planted examples", "pass", f"{names} broke all planted examples that can be broken and no other")
    return finding(
        "planted examples",
        "fail",
        f"planted examples: {'; '.join(wrong)}",
        "the attack does not work on this device or for this shape: do not trust what it found; run on a CPU in float64",
    )


def _total(probes: Probes) -> int:
    return len(probes.attacked.few)


def _probed(check: "Callable[[Probes], AuditFinding | None]") -> "Callable[[Evidence], AuditFinding | None]":
    return lambda evidence: None if evidence.probes is None else check(evidence.probes)


CHECKS = tuple(
    _probed(check)
    for check in (
        _saturated,
        _scale,
        _steps,
        _restarts,
        _transfer,
        _noise,
        _unbounded,
        _direction,
        _piecewise_constant,
        _range,
        _batch,
        _mode,
        _planted,
    )
)
