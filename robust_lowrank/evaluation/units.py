"""An evaluation is made of units: one attack at one eps each, in the order in which they run."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.base import Attack
from robust_lowrank.evaluation.suite import Suite
from robust_lowrank.threat import Threat, threat

SURVIVORS = "-on-survivors"  # ends the name of an attack on what those before it have left


class Unit(NamedTuple):
    """One attack at one eps."""

    attack: Attack
    threat: Threat
    name: str
    work: int  # passes at most, and one for the check of what was found; none where the search at a larger eps serves this one


def list_units(suite: Suite, shape: tuple[int, ...], classes: int, *, with_sources: bool = False) -> list[Unit]:
    """Return a suite's units for inputs of that shape, cheap attacks first; those that need sources only if there are some.

    Raises:
        UserError: no attack is left, or a budget or attack does not fit such inputs.
    """
    attacks = [attack for attack in suite.attacks if with_sources or not attack.transfers]
    if not attacks:
        raise UserError(f"suite {suite.name!r} has only attacks by transfer: give a source network")
    attacks.sort(key=lambda attack: attack.turn)
    units = []
    for attack in attacks:
        radii = suite.radii(attack)
        for number, eps in enumerate(reversed(radii) if attack.at_once else radii):
            budget = threat(suite.norm, eps, features=math.prod(shape))
            name = attack.named(classes, shape, budget) + ("" if attack.examples == "correct" else SURVIVORS)
            served = attack.at_once and number > 0
            units.append(Unit(attack, budget, name, 0 if served else attack.most(classes, suite.norm, len(radii)) + 1))
    return units


def earlier_units(units: Sequence[Unit], number: int) -> list[int]:
    """Return the numbers of the units whose broken examples a unit takes over.

    What broke an example within a smaller eps breaks it within a larger one, and the attack is not tried again, unless it is
    one step of length eps by definition: where a longer one finds less, the audit wants to know. An attack that serves
    all eps at once runs once, at the largest.
    """
    unit = units[number]

    def counts(other: Unit) -> bool:
        if other.name == unit.name:
            return unit.attack.at_once or (unit.attack.nested and other.threat.eps < unit.threat.eps)
        return unit.attack.examples == "survivors" and other.threat.eps <= unit.threat.eps

    return [index for index, other in enumerate(units[:number]) if counts(other)]
