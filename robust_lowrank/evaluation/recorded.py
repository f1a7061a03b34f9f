"""The attacks of a result are made anew from its record, which says every parameter of theirs."""

import json
from typing import Any, NamedTuple

from robust_lowrank.errors import UserError, first_line
from robust_lowrank.evaluation.attacks.base import Attack, NamedAttack
from robust_lowrank.evaluation.attacks.registry import ATTACKS, title_of
from robust_lowrank.evaluation.suite import Suite
from robust_lowrank.evaluation.units import SURVIVORS, Unit, list_units
from robust_lowrank.records import ResultRecord


class RecordedUnit(NamedTuple):
    """A unit of a result with its attack's entry in the record, whose name its verdicts bear."""

    unit: Unit
    entry: dict[str, Any]


def recorded_suite(record: ResultRecord) -> Suite:
    """Return the suite that a result is of, its attacks under other names, so that these say nothing.

    Example:
        >>> recorded_suite(result.record).norm
        'Linf'

    Raises:
        UserError: an attack is one that this version lacks, or has not such parameters, or they make no suite.
    """
    attacks = tuple(_attack(entry, record.suite, name=f"attack{i}") for i, entry in enumerate(record.definition["attacks"]))
    try:
        return Suite(name=record.suite, norm=record.norm, eps=tuple(record.eps), attacks=attacks)
    except ValueError as error:
        raise UserError(f"the result of suite {record.suite!r} is of no suite: {first_line(error)}") from error


def recorded_units(record: ResultRecord, shape: tuple[int, ...], classes: int) -> list[RecordedUnit]:
    """Return a result's units in the order in which they ran on such inputs and classes, those by transfer too.

    Raises:
        UserError: as `recorded_suite`.
    """
    suite = recorded_suite(record)
    entries = {attack.label: entry for attack, entry in zip(suite.attacks, record.definition["attacks"], strict=True)}
    units = list_units(suite, shape, classes, with_sources=True)
    return [RecordedUnit(unit, entries[unit.attack.label]) for unit in units]


def name_faults(record: ResultRecord, units: list[RecordedUnit]) -> list[str]:
    """Return in words which attacks bear a name or a title that is another one's."""
    faults = []
    for unit, entry in units:
        name, given = str(entry.get("name")), type(unit.attack)
        stem = name.removesuffix(SURVIVORS) if unit.attack.examples == "survivors" else name
        try:
            own = not issubclass(given, NamedAttack) or _attack(entry, record.suite, name=stem) is not None
        except UserError:
            own = False
        if not own or (not issubclass(given, NamedAttack) and name != unit.name):
            faults.append(f"{name} is the name of another attack than {entry.get('attack')!r}")
        if entry.get("title", title_of(name)) != title_of(name) or entry.get("minimal", unit.attack.minimal) != unit.attack.minimal:
            faults.append(f"{name} has the title or the kind of another attack")
    return list(dict.fromkeys(faults))


def _attack(entry: dict[str, Any], suite: str, *, name: str) -> Attack:
    """Return the attack of an entry, under another name if it can have one."""
    kind = ATTACKS.get(str(entry.get("attack")))
    if kind is None:
        raise UserError(f"the result of suite {suite!r} has an attack {entry.get('attack')!r}, which this version lacks")
    values = {key: value for key, value in entry.items() if key in kind.model_fields}
    if issubclass(kind, NamedAttack):
        values["name"] = name
    try:
        return kind.model_validate_json(json.dumps(kind.of_record(values)))
    except (ValueError, TypeError, LookupError, AttributeError) as error:  # ValidationError and UserError are ValueErrors
        raise UserError(
            f"the result of suite {suite!r} has an attack {entry.get('name')!r} with parameters that it has not"
        ) from error
