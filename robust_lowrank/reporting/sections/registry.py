"""The sections of each report in the order of its page: a new one is a file and a line here."""

from collections.abc import Callable, Sequence

from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.sections import (
    certificates,
    classes,
    comparison,
    conditioning,
    efficiency,
    gallery,
    join,
    layers,
    operator_norms,
    overview,
    transfers,
)
from robust_lowrank.reporting.sections.section import Section

Finders = tuple[Callable[[Evidence], Sequence[Section]], ...]

COMPARISON: Finders = (
    overview.find,
    comparison.find,
    efficiency.find,
    classes.find,
    transfers.find,
    gallery.find,
    certificates.find,
    conditioning.find,
    join.find,
)

CONDITION: Finders = (
    layers.find,
    conditioning.find_all,
    operator_norms.find,
)


def find_sections(finders: Finders, evidence: Evidence) -> list[Section]:
    """Return the sections that the evidence allows."""
    return [section for find in finders for section in find(evidence)]
