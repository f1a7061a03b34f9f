"""Brackets hold an accuracy at every L2 radius between a proved lower and an attack's upper bound."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from robust_lowrank.records import Certificate
from robust_lowrank.reporting.comparing.comparisons import Comparison, compare_verdicts, compared
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.statistics import Bounds


@dataclass(frozen=True)
class Bracket:
    """The bounds of a run's accuracy at every L2 radius, on the examples that were both certified and attacked."""

    entry: Entry
    certificate: Certificate
    frame: pd.DataFrame  # the certificate's rows of the common examples
    curve: pd.DataFrame  # columns radius, certified, attacked (NaN beyond the largest eps); each holds up to the next radius

    @property
    def examples(self) -> int:
        """The number of examples that were both certified and attacked."""
        return len(self.frame)

    @property
    def bounds(self) -> bool:
        """True for a certificate of the network itself; smoothing makes another classifier of it."""
        return self.certificate.record.kind != "smoothing"

    def held(self, eps: float) -> np.ndarray:
        """Return by example whether it is proved at `eps`."""
        return _held(self.frame, eps).to_numpy(dtype=bool)

    def between(self, eps: float) -> tuple[float, float]:
        """Return the shares that are proved and that attacks left at `eps`."""
        return certified_accuracy(self.frame, eps), float(self.curve[self.curve["radius"] <= eps].iloc[-1]["attacked"])


def certified_accuracy(frame: pd.DataFrame, radius: float) -> float:
    """Return the share of examples that are right and stay so for every input nearer than `radius`.

    Example:
        >>> frame = pd.DataFrame({"label": [1, 1], "prediction": [1, 0], "radius": [0.3, 0.5], "abstained": False})
        >>> certified_accuracy(frame, 0.2), certified_accuracy(frame, 0.4)
        (0.5, 0.0)
    """
    return float(_held(frame, radius).mean())


def find_brackets(evaluation: Evaluation) -> tuple[Bracket, ...]:
    """Return certified and attacked accuracy for every run of an L2 evaluation that has certificates."""
    if evaluation.norm != "L2":
        return ()
    certified = [(entry, certificate) for entry in evaluation.entries for certificate in entry.run.certificates.values()]
    return tuple(bracket for pair in certified if (bracket := _bracket(evaluation, *pair)))


def of_networks(brackets: Sequence[Bracket]) -> dict[str, Bracket]:
    """Return the brackets that are true bounds, one a run, by the run's name."""
    return {bracket.entry.name: bracket for bracket in brackets if bracket.bounds}


def spoken_eps(evaluation: Evaluation, brackets: Sequence[Bracket]) -> float | None:
    """Return the eps at which proofs are compared: the headline eps, or the largest below it at which anything is proved."""
    falling = [eps for eps in reversed(evaluation.eps) if eps <= evaluation.headline_eps]
    proved = of_networks(brackets).values()
    return next((eps for eps in falling if any(bracket.between(eps)[0] for bracket in proved)), None)


def compare_proved(evaluation: Evaluation, brackets: Sequence[Bracket]) -> tuple[Comparison, ...]:
    """Test what is proved of the networks, by `compared` pairs, that were certified on the same examples as the first of them."""
    proved, eps = of_networks(brackets), spoken_eps(evaluation, brackets)
    if eps is None:
        return ()
    first = next(iter(proved.values())).frame["example"].to_numpy()
    same = [bracket for bracket in proved.values() if np.array_equal(bracket.frame["example"].to_numpy(), first)]
    verdicts = {bracket.entry.name: Bounds(held, held) for bracket in same for held in [bracket.held(eps)]}
    return compare_verdicts(compared([bracket.entry for bracket in same]), verdicts, eps)


def _bracket(evaluation: Evaluation, entry: Entry, certificate: Certificate) -> Bracket | None:
    frame = _common(evaluation, entry, certificate)
    if frame.empty:
        return None
    attacked = {eps: held for eps in (0.0, *evaluation.eps) if not (held := evaluation.held(entry, eps)).empty}
    upper = pd.Series({eps: float(held["most"].reindex(frame["example"]).mean()) for eps, held in attacked.items()}).sort_index()
    right = frame[_right(frame)]
    grid = np.unique(np.concatenate([[0.0], right["radius"].to_numpy(dtype=float), upper.index.to_numpy(dtype=float)]))
    grid = grid[np.isfinite(grid)]
    curve = pd.DataFrame(
        {
            "radius": grid,
            "certified": [float((right["radius"] > radius).sum()) / len(frame) for radius in grid],
            "attacked": [upper[upper.index <= radius].iloc[-1] for radius in grid],
        }
    )
    return Bracket(entry, certificate, frame, curve)


def _common(evaluation: Evaluation, entry: Entry, certificate: Certificate) -> pd.DataFrame:
    """Return the certificate's rows of examples that were attacked; none if it is of other examples.

    A certificate may be of fewer examples than the attack or of more, so that labels tell whether they are the same.
    """
    result, table = evaluation.results[entry.name], certificate.table
    labels = result.verdicts.drop_duplicates("example").set_index("example")["label"]
    frame = table[table["example"].isin(labels.index)]
    same = (labels.reindex(frame["example"]).to_numpy() == frame["label"].to_numpy()).all()
    return frame if same else frame.iloc[:0]


def _held(frame: pd.DataFrame, radius: float) -> pd.Series:
    return _right(frame) & (frame["radius"] >= radius)


def _right(frame: pd.DataFrame) -> pd.Series:
    return (frame["prediction"] == frame["label"]) & ~frame["abstained"].astype(bool)
