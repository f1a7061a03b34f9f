"""The gallery shows adversarial examples: the clean input, what an attack added, and the sum."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.records import ResultFiles
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.formats.pictures import Picture, draw_picture, read_images
from robust_lowrank.reporting.sections.section import EvaluationSection

_CARDS = 2  # of examples that several networks lost, and of those that only some lost
_SHOTS = 2  # networks a card
LIMIT = 220_000  # bytes of all pictures; in the page they take a third more
_NAMED = 6  # networks that a sentence lists


@dataclass(frozen=True)
class Shot:
    """The input that broke an example for one network."""

    series: str
    attack: str
    taken_for: str
    distance: str
    perturbation: Picture
    adversarial: Picture


@dataclass(frozen=True)
class Card:
    """One example, with what broke it."""

    title: str
    remark: str
    clean: Picture
    shots: tuple[Shot, ...]


@dataclass(frozen=True)
class Gallery(EvaluationSection):
    """The cards of one evaluation."""

    cards: tuple[Card, ...]
    factor: int  # by which perturbations are shown stronger
    pictures: tuple[Picture, ...]  # of all cards, in order
    report = "comparison"
    place = 60
    slug = "gallery"
    heading = "Adversarial examples"
    folded = True
    template = "gallery"

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation, *, limit: int = LIMIT) -> Self | None:
        """Choose examples at the headline eps that several networks lost and that only some lost; None without stored inputs.

        One run a series takes part. The choice depends on the verdicts alone: the smallest example numbers that qualify.
        """
        entries = list({entry.series: entry for entry in reversed(evaluation.entries)}.values())[::-1]
        examples = [example for choice in _choose(evaluation, entries) if (example := _load(evaluation, entries, *choice))]
        if not examples:
            return None
        largest = max(float(np.abs(image - broken.clean).max()) for broken in examples for _, image in broken.inputs.values())
        factor = max(1, math.floor(0.5 / largest)) if largest > 0 else 1
        cards: list[Card] = []
        pictures: tuple[Picture, ...] = ()
        for broken in examples:
            card = _card(evaluation, entries, broken, factor)
            more = (*pictures, card.clean, *(picture for shot in card.shots for picture in (shot.perturbation, shot.adversarial)))
            if sum(len(picture.png) for picture in more) > limit:
                break
            cards.append(card)
            pictures = more
        return cls(evaluation, tuple(cards), factor, pictures) if cards else None

    @property
    def statement(self) -> str:
        """The instructions for reading the cards."""
        return (
            f"At {self.evaluation.threat}. Perturbations are shown "
            + (f"{self.factor} times as strong, " if self.factor > 1 else "")
            + "around mid-grey. Where several attacks broke an example, the input with the most decided wrong answer is shown."
        )


@dataclass(frozen=True)
class _Broken:
    """An example with what broke it: the rows of the verdicts and the inputs, by series."""

    example: int
    clean: np.ndarray
    inputs: dict[str, tuple[pd.Series, np.ndarray]]
    lost: list[str]
    held: list[str]


def _choose(evaluation: Evaluation, entries: Sequence[Entry]) -> list[tuple[int, list[str], list[str]]]:
    """Return examples with the series that lost and held them, first those that most lost, then those that fewest lost."""
    right = [evaluation.held(entry, 0.0)["least"] for entry in entries]
    held = {entry.series: evaluation.held(entry, evaluation.headline_eps) for entry in entries}
    paths = [path for entry in entries if (path := evaluation.results[entry.name].path)]
    stored = next(filter(None, (read_images(ResultFiles(path).clean, "", range(2**31)) for path in paths)), {})
    candidates = []
    for example in sorted(stored):
        if all(bool(clean.get(example, False)) for clean in right):
            lost = [name for name, frame in held.items() if example in frame.index and not frame.loc[example, "most"]]
            robust = [name for name, frame in held.items() if example in frame.index and frame.loc[example, "least"]]
            candidates.append((example, lost, robust))
    several = sorted((c for c in candidates if len(c[1]) > 1 or len(entries) == 1 == len(c[1])), key=lambda c: -len(c[1]))[:_CARDS]
    some = sorted((c for c in candidates if c[1] and c[2] and c not in several), key=lambda c: len(c[1]))[:_CARDS]
    return several + some


def _load(evaluation: Evaluation, entries: Sequence[Entry], example: int, lost: list[str], held: list[str]) -> _Broken | None:
    clean = None
    inputs: dict[str, tuple[pd.Series, np.ndarray]] = {}
    for entry in entries:
        result = evaluation.results[entry.name]
        if result.path is None:
            continue
        if clean is None:
            clean = read_images(ResultFiles(result.path).clean, "", [example]).get(example)
        if entry.series not in lost or len(inputs) == _SHOTS:
            continue
        verdicts = result.verdicts
        broken = (verdicts["example"] == example) & (verdicts["eps"] == evaluation.headline_eps) & (verdicts["verdict"] == "broken")
        for _, row in verdicts[broken].sort_values("margin", kind="stable").iterrows():
            key = f"{row['attack']}/{float(row['eps'])!r}"
            image = read_images(ResultFiles(result.path).adversarial, key, [example]).get(example)
            if image is not None and clean is not None and image.shape == clean.shape:
                inputs[entry.series] = (row, image)
                break
    return _Broken(example, clean, inputs, lost, held) if clean is not None and inputs else None


def _card(evaluation: Evaluation, entries: Sequence[Entry], broken: _Broken, factor: int) -> Card:
    by_series = {entry.series: entry for entry in entries}
    label = entries[0].class_name(int(next(iter(broken.inputs.values()))[0]["label"]))
    stem = f"gallery-{evaluation.slug}-{broken.example}"
    shots = []
    for place, (series, (row, image)) in enumerate(broken.inputs.items(), start=1):
        attack = evaluation.title_of(str(row["attack"]))
        taken_for = by_series[series].class_name(int(row["adversarial_prediction"]))
        added = np.clip(0.5 + factor * (image - broken.clean), 0, 1)
        shots.append(
            Shot(
                series=series,
                attack=attack,
                taken_for=taken_for,
                distance=f"{numbers.norm(evaluation.norm)} {float(row['distance']):.3g}",
                perturbation=draw_picture(
                    added, f"{stem}-{place}-perturbation", f"What {attack} adds to break it for {series}, {factor} times as strong"
                ),
                adversarial=draw_picture(image, f"{stem}-{place}-adversarial", f"The sum, which {series} takes for {taken_for}"),
            )
        )
    return Card(
        title=f"Example {broken.example}: {label}",
        remark=_remark(broken),
        clean=draw_picture(broken.clean, f"{stem}-clean", f"Example {broken.example} as it is, of class {label}"),
        shots=tuple(shots),
    )


def _remark(broken: _Broken) -> str:
    total = len(broken.lost) + len(broken.held)
    lost = f"Lost by {len(broken.lost)} of {total} networks"
    if not broken.held:
        return f"{lost}."
    if len(broken.held) <= min(len(broken.lost), _NAMED):
        return f"{lost}; held by {numbers.listing(broken.held)}."
    return f"{lost}: {numbers.listing(broken.lost)}."
