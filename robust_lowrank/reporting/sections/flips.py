"""The section on flips shows every example whose verdict differs between a trained network and a form of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from robust_lowrank import numbers
from robust_lowrank.records import Result, ResultFiles
from robust_lowrank.records.deployed import Deployed, deployed_forms
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import SLUG, Evaluation
from robust_lowrank.reporting.formats.pictures import Picture, draw_picture, read_images
from robust_lowrank.reporting.sections.section import EvaluationSection

LIMIT = 220_000  # bytes of all pictures; in the page they take a third more


@dataclass(frozen=True)
class Flip:
    """One example on which a network and its form differ, with the input that broke one of both."""

    series: str
    title: str
    remark: str
    pictures: tuple[Picture, ...]  # the clean example and, but for a difference on clean images, the input


@dataclass(frozen=True)
class Flips(EvaluationSection):
    """The flips of one evaluation, from small budgets to large ones."""

    flips: tuple[Flip, ...]
    left_out: int  # for their size, or because their inputs are no images
    report = "comparison"
    place = 56
    slug = "flips"
    heading = "Examples whose verdict differs"
    folded = True
    template = "flips"

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation, *, limit: int = LIMIT) -> Self | None:
        """Return the pictures of all flips, as far as they take no more than `limit` bytes; None where there is no flip."""
        flips: list[Flip] = []
        size = count = 0
        for entry, form, eps, example in _all(evaluation):
            count += 1
            flip = _flip(evaluation, entry, form, eps, example)
            size += sum(len(picture.png) for picture in flip.pictures)
            if flip.pictures and size <= limit:
                flips.append(flip)
        return cls(evaluation, tuple(flips), count - len(flips)) if flips else None

    @property
    def pictures(self) -> tuple[Picture, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """All pictures, in order."""
        return tuple(picture for flip in self.flips for picture in flip.pictures)

    @property
    def statement(self) -> str:
        """The instructions for reading the pictures."""
        text = "Left the clean example, right the input that broke the one and not the other."
        if not self.left_out:
            return text
        files = "adversarial.safetensors of RUN/results and RUN/forms/FORM/results, and the clean ones in flipped.safetensors there"
        return f"{text} Not shown here: {numbers.times(self.left_out, 'more example')}; the inputs lie in {files}."


def _all(evaluation: Evaluation) -> Iterator[tuple[Entry, Deployed, float, int]]:
    forms = [(entry, form) for entry in evaluation.entries for form in deployed_forms(entry.run, evaluation.results[entry.name])]
    for eps in (0.0, *evaluation.eps):
        for entry, form in forms:
            for example in (*form.lost(eps), *form.gained(eps)):
                yield entry, form, eps, int(example)


def _flip(evaluation: Evaluation, entry: Entry, form: Deployed, eps: float, example: int) -> Flip:
    """Return one flip, without pictures where they are not stored."""
    own, theirs = (entry.name, form.trained), (f"{form.form} of {entry.name}", form.result)
    (loser, result), (holder, other) = (theirs, own) if example in form.lost(eps) else (own, theirs)
    stem = _safe(f"flip-{evaluation.slug}-{form.form}-{entry.name[:SLUG]}-{eps:g}-{example}")
    rows = result.verdicts[result.verdicts["example"] == example]
    label, taken_for = (entry.class_name(int(rows[column].iloc[0])) for column in ("label", "clean_prediction"))
    images = []
    if (clean := _image(_files(form.result).flipped, "", example)) is not None:
        images.append(draw_picture(clean, f"{stem}-clean", f"Example {example} as it is, of class {label}"))
    remark = f"{loser} takes it for {taken_for}"
    if eps:
        broken = rows[(rows["eps"] == eps) & (rows["verdict"] == "broken")].sort_values("margin", kind="stable")
        if len(broken):
            attack, radius, source = str(broken["attack"].iloc[0]), eps, result
            taken_for = entry.class_name(int(broken["adversarial_prediction"].iloc[0]))
            remark = f"{evaluation.title_of(attack)}: {loser} takes it for {taken_for}"
        else:
            attack, radius = _replayed(form, "form" if result is form.result else "trained", eps, example)
            source = other
            remark = f"{evaluation.title_of(attack)} on {holder}: {loser} is wrong"
        if attack and (image := _image(_files(source).adversarial, f"{attack}/{radius!r}", example)) is not None:
            images.append(draw_picture(image, f"{stem}-adversarial", f"The input on which {loser} is wrong"))
    return Flip(
        series=entry.series,
        title=f"Example {example}, {label}, {f'at eps {numbers.budget(eps)}' if eps else 'when clean'}",
        remark=f"{remark}; {holder} is right.",
        pictures=tuple(images),
    )


def _replayed(form: Deployed, side: str, eps: float, example: int) -> tuple[str, float]:
    """Return the attack and the eps at which the other one's input breaks this one."""
    table = form.result.replayed
    if table is None:
        return "", eps
    rows = table[(table["on"] == side) & (table["example"] == example) & (table["eps"] <= eps)]
    return (str(rows["attack"].iloc[0]), float(rows["eps"].iloc[0])) if len(rows) else ("", eps)


def _files(result: Result) -> ResultFiles:
    return ResultFiles(result.path or Path())


def _image(path: Path, key: str, example: int) -> np.ndarray | None:
    return read_images(path, key, [example]).get(example)


def _safe(name: str) -> str:
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split())
