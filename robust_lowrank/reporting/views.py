"""The views beside the comparison itself: costs, classes, transfer, a gallery, certificates, and the join with conditioning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from robust_lowrank.reporting import certificates, classes, efficiency, join, transfers
from robust_lowrank.reporting.figures import Figure
from robust_lowrank.reporting.gallery import Gallery, find_gallery
from robust_lowrank.reporting.pareto import Fronts
from robust_lowrank.reporting.tables import Table
from robust_lowrank.reporting.trials import Trial


@dataclass(frozen=True)
class View:
    """A section of the report: what it shows in words, figures and tables."""

    slug: str
    title: str
    text: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    gallery: Gallery | None = None


def find_views(trials: Sequence[Trial]) -> list[View]:
    """Return the views that the records allow, each of the first trial that has it; certificates of every trial in L2."""
    found = [_first(trials, view) for view in (_costs, _classes, _transfer, _gallery)]
    return [view for view in (*found, *_certificates(trials)) if view]


def conditioning_view(trials: Sequence[Trial]) -> View | None:
    """Return what conditioning and robustness have to do with each other, or None where too little is recorded."""
    return _first(trials, lambda trial: _join(trial, trials))


def _costs(trial: Trial) -> View | None:
    fronts = Fronts(trial)
    figure = efficiency.figure(fronts)
    if figure is None:
        return None
    return View("costs", f"Robustness and its costs: {trial.title}", "", (figure,), (efficiency.table(fronts),))


def _classes(trial: Trial) -> View | None:
    found = classes.by_class(trial)
    if found is None:
        return None
    title = f"Class by class: {trial.title}"
    return View("classes", title, classes.statement(found), (classes.figure(found),), classes.tables(found))


def _transfer(trial: Trial) -> View | None:
    found = transfers.find_transfers(trial)
    if found is None:
        return None
    figures, tables = (transfers.figure(found),), (transfers.table(found),)
    return View("transfer", f"Transfer: {trial.title}", transfers.statement(found), figures, tables)


def _gallery(trial: Trial) -> View | None:
    found = find_gallery(trial)
    return View("gallery", f"Adversarial examples: {trial.title}", found.caption, gallery=found) if found else None


def _certificates(trials: Sequence[Trial]) -> Iterator[View]:
    for trial in trials:
        brackets = certificates.find_brackets(trial)
        if figure := certificates.figure(brackets, trial):
            title = f"Proved and attacked: {trial.title}"
            table = certificates.table(brackets, trial)
            said = certificates.statement(brackets, trial)
            yield View(f"certified-{trial.slug}", title, said, (figure,), (table,) if table else ())


def _join(trial: Trial, trials: Sequence[Trial]) -> View | None:
    found = join.find_join(trial, trials)
    if found is None:
        return None
    known = join.relations(found)
    figure, table = join.figure(found), join.table(found, known)
    return View(
        "join",
        f"Conditioning and robustness: {trial.title}",
        join.statement(found, known),
        (figure,) if figure else (),
        (table,) if table else (),
    )


_Found = TypeVar("_Found")


def _first(trials: Sequence[Trial], find: Callable[[Trial], _Found | None]) -> _Found | None:
    return next((found for trial in trials if (found := find(trial)) is not None), None)
