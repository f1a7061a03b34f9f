"""The probes show small extra attacks beside one another, and how the model takes its inputs."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from robust_lowrank import numbers
from robust_lowrank.evaluation.audit.evidence import Check, Evidence, finding, graded
from robust_lowrank.evaluation.audit.probes import DRAWS, FEW, MANY, RESTARTS, SCALES, Probes
from robust_lowrank.records import AuditFinding

CHANCE = 4  # examples by which two small attacks may differ without a warning
SMALL, LARGE = 0.05, 0.2  # shares of the probed examples that bring a warning and a failure
NARROW = 0.5  # range of the features below which inputs seem to be scaled wrongly


class Comparison(NamedTuple):
    """Two small attacks of which the weaker one should break nothing that the stronger one does not."""

    check: str
    weaker: str
    stronger: str
    fields: tuple[str, str]  # of `Attacked`: what the weaker and the stronger one leave
    remedy: str


COMPARISONS: tuple[Comparison, ...] = (
    Comparison(
        "logit scale",
        f"PGD on logits divided by {', '.join(f'{scale:g}' for scale in SCALES)}",
        "PGD on the logits as they are",
        ("rescaled", "few"),
        "the size of the logits masks the gradients: divide them by a constant, or attack their differences (suite 'standard')",
    ),
    Comparison(
        "monotone in steps",
        f"PGD with {FEW} steps",
        f"PGD with {MANY}",
        ("few", "many"),
        "gradients lead nowhere: use attacks with several restarts and Square (suite 'standard')",
    ),
    Comparison(
        "restarts",
        f"PGD from {RESTARTS} starts",
        "PGD from the first of them",
        ("restarted", "few"),
        "the loss has many local maxima: use attacks with more restarts and smaller steps, and Square (suite 'standard')",
    ),
    Comparison(
        "PGD against transfer",
        f"PGD with {FEW} steps on the model smoothed by noise",
        f"PGD with {MANY} steps on the model itself",
        ("transferred", "many"),
        "a rugged layer hides the gradients: attack the smoothed model, and use Square (suite 'standard')",
    ),
    Comparison(
        "PGD against noise",
        f"noise in {DRAWS} draws",
        f"PGD with {MANY} steps",
        ("noise", "many"),
        "gradients are masked: find what is not differentiable or saturates, and use the suite 'standard'",
    ),
)


def _compare(comparison: Comparison, probes: Probes, total: int) -> AuditFinding:
    left, held = (getattr(probes.attacked, field) for field in comparison.fields)
    gain = int((held & ~left).sum())
    return finding(
        comparison.check,
        "pass" if gain <= CHANCE else graded(gain / total, SMALL, LARGE),
        f"{comparison.weaker} breaks {gain} of {total} probed examples that {comparison.stronger} does not",
        comparison.remedy,
    )


def _saturated(probes: Probes, total: int) -> AuditFinding:
    vanished, saturated = int(probes.attacked.vanished.sum()), int(probes.attacked.saturated.sum())
    suspicious = vanished > CHANCE or 2 * saturated > total
    return finding(
        "saturated gradients",
        "fail" if vanished >= LARGE * total else "warn" if suspicious else "pass",
        f"the label's softmax is 1 to the last digit on {saturated} of {total} probed examples, and the gradient vanishes on "
        f"{vanished} where that of smaller logits does not",
        "divide the logits by a constant, or attack their differences (suite 'standard')",
    )


def _unbounded(probes: Probes, total: int) -> AuditFinding:
    left = int(probes.attacked.far.sum())
    return finding(
        "eps to the limit",
        graded(left / total, 1 / total, SMALL),
        f"PGD leaves {left} of {total} probed examples robust at eps {numbers.budget(probes.far_eps)}, where all classifiers break",
        "the attack does not work on this model: look for gradients that are 0, masked or wrong",
    )


def _direction(probes: Probes, total: int) -> AuditFinding:
    right = int(probes.attacked.downhill.sum())
    return finding(
        "gradient direction",
        graded(1 - right / total, 0.1, 0.25),
        f"a short step along the gradient lowers the margin of {right} of {total} probed examples",
        "the gradient says nothing of the loss (rounding, detach, a rugged layer): attack a smoother model",
    )


def _slope(probes: Probes, total: int) -> AuditFinding:
    along, aside = (int((~field).sum()) for field in (probes.attacked.along, probes.attacked.aside))
    worse = max(along, aside)
    return finding(
        "gradient slope",
        "pass" if worse <= CHANCE else graded(worse / total, 0.2, 0.33),
        f"the margin changes otherwise than the gradient says over a short step along it on {along} of {total} probed examples, "
        f"along noise on {aside}",
        "the gradient is that of a part of the network, or of a stand-in that is far off: let it through all of it",
        passed=f"the margin changes as the gradient says, along it and along noise, on {total - worse} of {total} examples",
    )


def _piecewise_constant(probes: Probes, total: int) -> AuditFinding | None:
    if probes.constant:
        return None
    flat = int(probes.attacked.flat.sum())
    return finding(
        "smooth in the input",
        graded(flat / total, SMALL, LARGE) if flat > CHANCE else "pass",
        f"a tiny change of the input changes no logit of {flat} of {total} probed examples",
        "the model rounds its input or a layer's output: attack it with a differentiable stand-in",
    )


def _range(probes: Probes) -> AuditFinding:
    right, (other, most) = probes.right["as they are"], max(probes.right.items(), key=lambda item: item[1])
    low, high = probes.lowest, probes.highest
    if probes.constant:
        return finding(
            "inputs", "fail", "the model gives all inputs the same logits: it ignores them", "attack the trained network"
        )
    if most - right > max(CHANCE, 0.1 * probes.looked_at):
        return finding(
            "inputs",
            "fail",
            f"the model gets {right} of {probes.looked_at} inputs right as they are, but {most} {other}",
            "put the normalisation that the model expects into the model, which takes inputs in [0, 1]",
        )
    return finding(
        "inputs",
        "warn" if high - low < NARROW else "pass",
        f"the features of the inputs lie in [{low:.3g}, {high:.3g}] only: eps is meant for a range of [0, 1]",
        "scale the inputs to [0, 1], or choose eps for their range",
        passed=f"inputs lie in [{low:.3g}, {high:.3g}], and the model takes them best as they are",
    )


def _batch(probes: Probes) -> AuditFinding:
    return finding(
        "batch",
        "pass" if probes.apart <= 1 else "fail",
        f"an example's logits within a batch differ from those alone by {probes.apart:.3g} times what rounding allows",
        "let BatchNorm use its running statistics, switch randomness off, and let no layer look at other examples",
        passed="an example has the same logits alone and within a batch, up to rounding",
    )


def _mode(probes: Probes) -> AuditFinding:
    names = ", ".join(probes.training[:3]) + (", ..." if len(probes.training) > 3 else "")
    return finding(
        "evaluation mode",
        "fail" if probes.training else "pass",
        f"{len(probes.training)} modules are in training mode although the model was told to evaluate: {names}",
        "do not override train() or eval(); see that every module is registered",
        passed="every module is in evaluation mode",
    )


def _planted(probes: Probes) -> AuditFinding:
    wrong = [
        f"{case.attack} broke {case.broken} of {case.breakable} that break and {case.claimed} of {case.safe} that cannot"
        for case in probes.planted
        if case.broken < case.breakable or case.claimed
    ]
    names = ", ".join(case.attack for case in probes.planted)
    return finding(
        "planted examples",
        "fail" if wrong else "pass",
        f"planted examples: {'; '.join(wrong)}",
        "the attack has too few steps for this shape and eps, or does not work on this device: give it more, or a CPU in float64",
        passed=f"{names} broke all planted examples that can be broken and no other",
    )


def _of_examples(check: Callable[[Probes, int], AuditFinding | None]) -> Check:
    """Return a check of what the probes saw of correctly classified examples, if there are any."""

    def judge(evidence: Evidence) -> AuditFinding | None:
        total = 0 if evidence.probes is None else len(evidence.probes.attacked.few)
        return check(evidence.probes, total) if evidence.probes is not None and total else None

    return judge


def _of_inputs(check: Callable[[Probes], AuditFinding]) -> Check:
    return lambda evidence: None if evidence.probes is None else check(evidence.probes)


_COMPARED = tuple(partial(_compare, comparison) for comparison in COMPARISONS)

CHECKS: tuple[Check, ...] = (
    *map(_of_examples, (_saturated, *_COMPARED, _unbounded, _direction, _slope, _piecewise_constant)),
    *map(_of_inputs, (_range, _batch, _mode, _planted)),
)
