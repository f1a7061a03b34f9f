"""The views beside the comparison itself: costs, classes, transfer, a gallery, certificates, and the join with conditioning."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.comparing.pareto import Fronts
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.tables import Table
from robust_lowrank.reporting.sections import certificates, classes, efficiency, join, transfers
from robust_lowrank.reporting.sections.gallery import Gallery, find_gallery


@dataclass(frozen=True)
class View:
    """A section of the report: what it shows in words, figures and tables."""

    slug: str
    title: str
    text: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    gallery: Gallery | None = None


def find_views(evaluations: Sequence[Evaluation]) -> list[View]:
    """Return the views that the records allow, each of the first evaluation that has it; certificates of every evaluation in L2."""
    found = [_first(evaluations, view) for view in (_costs, _classes, _transfer, _gallery)]
    return [view for view in (*found, *_certificates(evaluations)) if view]


def conditioning_view(evaluations: Sequence[Evaluation]) -> View | None:
    """Return what conditioning and robustness have to do with each other, or None where too little is recorded."""
    return _first(evaluations, lambda evaluation: _join(evaluation, evaluations))


def _costs(evaluation: Evaluation) -> View | None:
    fronts = Fronts(evaluation)
    figure = efficiency.figure(fronts)
    if figure is None:
        return None
    return View("costs", f"Robustness and its costs: {evaluation.title}", "", (figure,), (efficiency.table(fronts),))


def _classes(evaluation: Evaluation) -> View | None:
    found = classes.by_class(evaluation)
    if found is None:
        return None
    title = f"Class by class: {evaluation.title}"
    return View("classes", title, classes.statement(found), (classes.figure(found),), classes.tables(found))


def _transfer(evaluation: Evaluation) -> View | None:
    found = transfers.find_transfers(evaluation)
    if found is None:
        return None
    figures, tables = (transfers.figure(found),), (transfers.table(found),)
    return View("transfer", f"Transfer: {evaluation.title}", transfers.statement(found), figures, tables)


def _gallery(evaluation: Evaluation) -> View | None:
    found = find_gallery(evaluation)
    return View("gallery", f"Adversarial examples: {evaluation.title}", found.caption, gallery=found) if found else None


def _certificates(evaluations: Sequence[Evaluation]) -> Iterator[View]:
    for evaluation in evaluations:
        brackets = certificates.find_brackets(evaluation)
        if figure := certificates.figure(brackets, evaluation):
            title = f"Proved and attacked: {evaluation.title}"
            table = certificates.table(brackets, evaluation)
            said = certificates.statement(brackets, evaluation)
            yield View(f"certified-{evaluation.slug}", title, said, (figure,), (table,) if table else ())


def _join(evaluation: Evaluation, evaluations: Sequence[Evaluation]) -> View | None:
    found = join.find_join(evaluation, evaluations)
    if found is None:
        return None
    known = join.relations(found)
    figure, table = join.figure(found), join.table(found, known)
    return View(
        "join",
        f"Conditioning and robustness: {evaluation.title}",
        join.statement(found, known),
        (figure,) if figure else (),
        (table,) if table else (),
    )


_Found = TypeVar("_Found")


def _first(evaluations: Sequence[Evaluation], find: Callable[[Evaluation], _Found | None]) -> _Found | None:
    return next((found for evaluation in evaluations if (found := find(evaluation)) is not None), None)
