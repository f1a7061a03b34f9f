"""The registry finds the sections of each report: every class in the files beside it that says its `report` and `place`."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules

from robust_lowrank.reporting import sections
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.sections.section import Section

Finders = tuple[Callable[[Evidence], Sequence[Section]], ...]


def _finders(report: str) -> Finders:
    modules = [import_module(module.name) for module in iter_modules(sections.__path__, f"{sections.__name__}.")]
    values = [value for module in modules for value in vars(module).values()]
    classes = {value for value in values if isinstance(value, type) and issubclass(value, Section)}
    shown = [section for section in classes if vars(section).get("report") == report]
    return tuple(section.find for section in sorted(shown, key=lambda section: section.place))


COMPARISON: Finders = _finders("comparison")
CONDITION: Finders = _finders("condition")


def find_sections(finders: Finders, evidence: Evidence) -> list[Section]:
    """Return the sections that the evidence allows, in the order of the page."""
    return [section for find in finders for section in find(evidence)]
