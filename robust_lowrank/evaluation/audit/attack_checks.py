"""The ledgers show what one attack found beside another, and one eps beside another."""

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robust_lowrank.evaluation.attacks.apgd import TARGETS
from robust_lowrank.evaluation.attacks.registry import ATTACKS
from robust_lowrank.evaluation.audit.evidence import Evidence, exceeds, finding
from robust_lowrank.evaluation.ledger import Ledger

if TYPE_CHECKING:
    from robust_lowrank.records import AuditFinding

BLIND = tuple(name for name, kind in ATTACKS.items() if not kind.searches)  # see no gradients and search for nothing
BLACK_BOX = tuple(name for name, kind in ATTACKS.items() if not kind.gradients)
ENSEMBLES = tuple(name for name, kind in ATTACKS.items() if kind.ensemble)
GAIN_FAIL = 0.05  # share of the correctly classified examples that Square alone breaks
_BY_SQUARE = "by=square"  # the flag of an ensemble's example that Square broke


def _classes(evidence: Evidence) -> "AuditFinding | None":
    upstream = {ledger.attack for ledger in evidence.ledgers if ledger.engine == "pyautoattack"}
    names = sorted(name for name in upstream if not name.startswith("autoattack-rand"))
    if not names or evidence.classes > TARGETS:
        return None
    return finding(
        "targets",
        "warn",
        f"AutoAttack has {TARGETS} target classes, {evidence.classes} classes allow {evidence.classes - 1}: "
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
        return finding("claims", "pass", "every success that an attack claimed was confirmed")
    return finding(
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
    worse = [f"{pgd} against {fgsm} at eps {eps:.4g}" for fgsm, pgd, eps in pairs if exceeds(pgd, fgsm, evidence)]
    if not worse:
        return finding("PGD against FGSM", "pass", "PGD finds what FGSM finds and more, up to chance")
    return finding(
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
        if exceeds(int(large.robust.sum()), int(small.robust.sum()), evidence)
    ]
    if not rising:
        return finding("monotone in eps", "pass", "a larger eps leaves no more examples robust, up to chance")
    return finding(
        "monotone in eps",
        "warn",
        f"a larger eps leaves more examples robust ({'; '.join(rising)}): single steps overshoot, or gradients are masked",
        "trust the worst case over the suite, and use attacks of several steps",
    )


def _blind_against_white_box(evidence: Evidence) -> "AuditFinding | None":
    """Judge attacks that see no gradients (noise, transfer) beside independent ones that do, at the same eps."""
    independent = [ledger for ledger in evidence.ledgers if ledger.independent]
    blind = [ledger for ledger in independent if ledger.attack.startswith(BLIND)]
    worse, compared = [], False
    for ledger in blind:
        white = [other for other in independent if other.eps == ledger.eps and not other.attack.startswith(BLACK_BOX)]
        if not white:
            continue
        compared = True
        best = min(int(other.robust.sum()) for other in white)
        if exceeds(best, int(ledger.robust.sum()), evidence):
            worse.append(f"{ledger.attack} leaves {int(ledger.robust.sum())}, the best of them {best} at eps {ledger.eps:.4g}")
    if not compared:
        return None
    if not worse:
        return finding("gradients against none", "pass", "attacks that see gradients find what noise and transfer find, and more")
    return finding(
        "gradients against none",
        "fail",
        f"attacks that see no gradients find more than attacks that do ({'; '.join(worse)}): gradients are masked",
        "look for what is not differentiable or saturates, and attack a differentiable version of it",
    )


def _square_gain(evidence: Evidence) -> "AuditFinding | None":
    """Judge what Square breaks and no attack that sees gradients does, at the same eps."""
    gains = []
    for eps in sorted({ledger.eps for ledger in evidence.ledgers}):
        here = [ledger for ledger in evidence.ledgers if ledger.eps == eps]
        white = [_broken_by_gradients(ledger, evidence) for ledger in here if not ledger.attack.startswith(BLACK_BOX)]
        square = [_broken_by_square(ledger) for ledger in here if _has_square(ledger)]
        if white and square:
            gains.append((int((_union(square) & ~_union(white)).sum()), eps))
    if not gains:
        return None
    gain, eps = max(gains)
    message = f"Square breaks {gain} examples at eps {eps:.4g} that no attack with gradients breaks"
    if not exceeds(gain, 0, evidence):
        return finding("Square's gain", "pass", message)
    share = gain / max(int(evidence.clean.correct.sum()), 1)
    return finding(
        "Square's gain",
        "fail" if share >= GAIN_FAIL else "warn",
        f"{message}: a search without gradients should add almost nothing, so gradients are masked",
        "raise Square's queries, and look for what is not differentiable or saturates",
    )


def _family(ledger: Ledger) -> str:
    return ledger.attack.split("-")[0]


def _ensemble(ledger: Ledger) -> bool:
    """Say whether the attack has several parts, which it names in its flags."""
    return ledger.attack.startswith(ENSEMBLES) or "+" in ledger.attack


def _has_square(ledger: Ledger) -> bool:
    if not _ensemble(ledger):
        return _family(ledger) == "square"
    return "+" not in ledger.attack or "square" in ledger.attack.split("+")


def _broken_by_square(ledger: Ledger) -> Tensor:
    return ledger.broken & _flagged(ledger, {_BY_SQUARE}) if _ensemble(ledger) else ledger.broken


def _broken_by_gradients(ledger: Ledger, evidence: Evidence) -> Tensor:
    """Return what the attack broke by itself: neither by Square nor taken over from another attack."""
    others = {f"by={other.attack}" for other in evidence.ledgers if other.attack != ledger.attack}
    return ledger.broken & ~_flagged(ledger, {_BY_SQUARE} | others)


def _flagged(ledger: Ledger, flags: set[str]) -> Tensor:
    return torch.tensor([not flags.isdisjoint(own) for own in ledger.flags])


def _union(masks: list[Tensor]) -> Tensor:
    return torch.stack(masks).any(dim=0)


CHECKS: "tuple[Callable[[Evidence], AuditFinding | None], ...]" = (
    _classes,
    _claims,
    _pgd_against_fgsm,
    _monotone_in_eps,
    _blind_against_white_box,
    _square_gain,
)
