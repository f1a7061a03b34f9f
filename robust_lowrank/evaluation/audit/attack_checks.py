"""The ledgers show what one attack found beside another, and one eps beside another."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from robust_lowrank import numbers
from robust_lowrank.evaluation.attacks.apgd import TARGETS
from robust_lowrank.evaluation.attacks.registry import ATTACKS, title_of
from robust_lowrank.evaluation.attacks.upstream.autoattack import UNTARGETED
from robust_lowrank.evaluation.audit.evidence import Check, Evidence, exceeds, finding
from robust_lowrank.evaluation.audit.fidelity import ENSEMBLES
from robust_lowrank.evaluation.ledger import Ledger
from robust_lowrank.records import AuditFinding

BLIND: tuple[str, ...] = tuple(name for name, kind in ATTACKS.items() if not kind.searches)  # no gradients, and no search
BLACK_BOX: tuple[str, ...] = tuple(name for name, kind in ATTACKS.items() if not kind.gradients)
GAIN_FAIL = 0.05  # share of the correctly classified examples that a search without gradients alone breaks


def _classes(evidence: Evidence) -> AuditFinding | None:
    upstream = {ledger.attack for ledger in evidence.ledgers if ledger.engine == "pyautoattack"}
    names = sorted(name for name in upstream if not name.startswith(UNTARGETED))
    if not names or evidence.classes > TARGETS:
        return None
    return finding(
        "targets",
        "warn",
        f"AutoAttack has {TARGETS} target classes, {evidence.classes} classes allow {evidence.classes - 1}: "
        f"this ran as {', '.join(names)}",
        "quote it under that name",
    )


def _claims(evidence: Evidence) -> AuditFinding:
    rejected = sum(
        "claim-rejected" in flags
        for ledger in evidence.ledgers
        for flags, robust in zip(ledger.flags, ledger.robust, strict=True)
        if robust
    )
    return finding(
        "claims",
        "warn" if rejected else "pass",
        f"{rejected} successes that an attack claimed were not confirmed and count as robust: they lie on a tie or on rounding",
        "evaluate in float64, or treat these examples as broken",
        passed="every success that an attack claimed was confirmed",
    )


def _against_rival(name: str, rival: str, evidence: Evidence) -> AuditFinding | None:
    robust = {(_family(ledger), ledger.eps): int(ledger.robust.sum()) for ledger in evidence.ledgers if ledger.independent}
    pairs = [(held, robust[rival, eps], eps) for (family, eps), held in robust.items() if family == name and (rival, eps) in robust]
    if not pairs:
        return None
    worse = [f"{held} against {other} at eps {numbers.budget(eps)}" for held, other, eps in pairs if exceeds(held, other, evidence)]
    stronger, weaker = title_of(name), title_of(rival)
    return finding(
        f"{stronger} against {weaker}",
        "warn" if worse else "pass",
        f"{stronger} leaves more examples robust than {weaker} ({'; '.join(worse)}): a sign of masked gradients or of too few "
        "steps",
        f"give {stronger} more steps and restarts, and use the suite 'standard'",
        passed=f"{stronger} finds what {weaker} finds and more, up to chance",
    )


def _monotone_in_eps(evidence: Evidence) -> AuditFinding | None:
    by_attack: dict[str, list[Ledger]] = {}
    for ledger in evidence.ledgers:
        by_attack.setdefault(ledger.attack, []).append(ledger)
    steps = [step for ledgers in by_attack.values() for step in pairwise(sorted(ledgers, key=lambda ledger: ledger.eps))]
    if not steps:
        return None
    rising = [
        f"{large.attack} from {int(small.robust.sum())} at {numbers.budget(small.eps)} "
        f"to {int(large.robust.sum())} at {numbers.budget(large.eps)}"
        for small, large in steps
        if exceeds(int(large.robust.sum()), int(small.robust.sum()), evidence)
    ]
    return finding(
        "monotone in eps",
        "warn" if rising else "pass",
        f"a larger eps leaves more examples robust ({'; '.join(rising)}): single steps overshoot, or gradients are masked",
        "trust the worst case over the suite, and use attacks of several steps",
        passed="a larger eps leaves no more examples robust, up to chance",
    )


def _blind_against_white_box(evidence: Evidence) -> AuditFinding | None:
    """Judge attacks that see no gradients (noise, transfer) beside independent ones that do, at the same eps."""
    independent = [ledger for ledger in evidence.ledgers if ledger.independent]
    worse, compared = [], False
    for ledger in independent:
        white = [other for other in independent if other.eps == ledger.eps and not _is(other, BLACK_BOX)]
        if not white or not _is(ledger, BLIND):
            continue
        compared = True
        best = min(int(other.robust.sum()) for other in white)
        if exceeds(best, int(ledger.robust.sum()), evidence):
            worse.append(f"{ledger.attack} leaves {int(ledger.robust.sum())}, the best of them {best} at eps {ledger.eps:.4g}")
    if not compared:
        return None
    return finding(
        "gradients against none",
        "fail" if worse else "pass",
        f"attacks that see no gradients find more than attacks that do ({'; '.join(worse)}): gradients are masked",
        "look for what is not differentiable or saturates, and attack a differentiable version of it",
        passed="attacks that see gradients find what noise and transfer find, and more",
    )


def _gain(name: str, evidence: Evidence) -> AuditFinding | None:
    """Judge what a search without gradients breaks and no attack that sees gradients does, at the same eps."""
    gains = []
    for eps in sorted({ledger.eps for ledger in evidence.ledgers}):
        here = [ledger for ledger in evidence.ledgers if ledger.eps == eps]
        white = [_broken_by_gradients(ledger, name, evidence) for ledger in here if not _is(ledger, BLACK_BOX)]
        search = [broken for ledger in here if (broken := _broken_by(name, ledger)) is not None]
        if white and search:
            gains.append((int((torch.stack(search).any(dim=0) & ~torch.stack(white).any(dim=0)).sum()), eps))
    if not gains:
        return None
    gain, eps = max(gains)
    share = gain / max(int(evidence.clean.correct.sum()), 1)
    message = f"{title_of(name)} breaks {gain} examples at eps {numbers.budget(eps)} that no attack with gradients breaks"
    return finding(
        f"{title_of(name)}'s gain",
        "pass" if not exceeds(gain, 0, evidence) else "fail" if share >= GAIN_FAIL else "warn",
        f"{message}: a search without gradients should add almost nothing, so gradients are masked",
        f"raise {title_of(name)}'s queries, and look for what is not differentiable or saturates",
        passed=message,
    )


def _family(ledger: Ledger) -> str:
    return ledger.kind or ledger.attack.split("-")[0]


def _is(ledger: Ledger, kinds: tuple[str, ...]) -> bool:
    """Return whether an attack is of some kinds, whatever name its suite gave it."""
    return ledger.kind in kinds if ledger.kind else ledger.attack.startswith(kinds)


def _broken_by(name: str, ledger: Ledger) -> Tensor | None:
    """Return what an attack broke, itself or as a part that an ensemble names in its flags; None if it was not there."""
    parts = ledger.attack.split("+")
    if len(parts) == 1 and not _is(ledger, ENSEMBLES):
        return ledger.broken if _family(ledger) == name else None
    return ledger.broken & _flagged(ledger, {f"by={name}"}) if len(parts) == 1 or name in parts else None


def _broken_by_gradients(ledger: Ledger, search: str, evidence: Evidence) -> Tensor:
    """Return what the attack broke by itself: neither by a search without gradients nor taken over from another attack."""
    others = {f"by={other.attack}" for other in evidence.ledgers if other.attack != ledger.attack}
    return ledger.broken & ~_flagged(ledger, {f"by={search}"} | others)


def _flagged(ledger: Ledger, flags: set[str]) -> Tensor:
    return torch.tensor([not flags.isdisjoint(remarks) for remarks in ledger.flags])


CHECKS: tuple[Check, ...] = (
    _classes,
    _claims,
    *(partial(_against_rival, name, kind.rival) for name, kind in ATTACKS.items() if kind.rival),
    _monotone_in_eps,
    _blind_against_white_box,
    *(partial(_gain, name) for name, kind in ATTACKS.items() if kind.searches and not kind.gradients),
)
