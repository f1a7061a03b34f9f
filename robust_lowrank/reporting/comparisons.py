"""Which of two networks is better, and how sure that is: paired exact McNemar tests, Holm-corrected."""

from dataclasses import dataclass
from itertools import combinations

from robust_lowrank.reporting.entries import Entry
from robust_lowrank.reporting.trials import CLEAN, WORST, Trial
from robust_lowrank.statistics import holm, mcnemar_exact

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same examples; an example counts as right if it holds under every attack at `eps`."""

    first: Entry
    second: Entry
    eps: float  # 0 is clean accuracy
    examples: int
    only_first: int  # right by the first network alone
    only_second: int
    p: float
    adjusted: float  # Holm-corrected over `family` comparisons
    family: int

    @property
    def difference(self) -> float:
        """Accuracy of the first less that of the second, a fraction."""
        return (self.only_first - self.only_second) / self.examples

    @property
    def supported(self) -> bool:
        """Whether the corrected p-value is below 5 %."""
        return self.adjusted < ALPHA

    @property
    def better(self) -> Entry | None:
        """The better network, where the test supports one."""
        if not self.supported:
            return None
        return self.first if self.difference > 0 else self.second


@dataclass(frozen=True)
class Contrast:
    """What all pairs of runs together say of one series against another."""

    p: float  # the largest corrected p-value
    pairs: int  # of runs
    family: int
    better: str | None  # the series that is better in every pair


def compare(trial: Trial, eps: float) -> tuple[Comparison, ...]:
    """Test every pair of series at one budget, seed by seed; all the tests of a budget are one family for Holm.

    Every run takes part: it meets the run of its own seed, or where there is none the one in its place, or the last.
    Verdicts are the worst case over the suite's attacks; `eps` 0 compares clean accuracy.
    """
    pairs = [
        pair
        for first, second in combinations(trial.series, 2)
        for pair in _pairs(_members(trial, first, eps), _members(trial, second, eps))
    ]
    tests = []
    for first, second in pairs:
        a, b = trial.held(first, eps).align(trial.held(second, eps), join="inner")
        tests.append((first, second, len(a), int((a & ~b).sum()), int((b & ~a).sum()), mcnemar_exact(a.to_numpy(), b.to_numpy())))
    if not tests:
        return ()
    adjusted = holm([p for *_, p in tests])
    return tuple(
        Comparison(first, second, eps, n, only_first, only_second, float(p), float(corrected), len(tests))
        for (first, second, n, only_first, only_second, p), corrected in zip(tests, adjusted, strict=True)
    )


def contrast(comparisons: tuple[Comparison, ...], one: str, other: str) -> Contrast | None:
    """Return the joint result of the tests between two series, or None where there are none."""
    between = [c for c in comparisons if {c.first.series, c.second.series} == {one, other}]
    if not between:
        return None
    better = {c.better.series if c.better else None for c in between}
    return Contrast(
        p=max(c.adjusted for c in between),
        pairs=len(between),
        family=between[0].family,
        better=better.pop() if len(better) == 1 else None,
    )


def leaders(trial: Trial, eps: float, comparisons: tuple[Comparison, ...]) -> set[str]:
    """Return the best series at a budget and those which the tests cannot tell from it.

    Empty where no series is significantly worse than the best: then nothing deserves to stand out.
    """
    attack = CLEAN if eps == 0 else WORST
    means = {name: mean.value for name in trial.series if (mean := trial.mean(name, attack, eps))}
    if not means:
        return set()
    best = max(means, key=lambda name: means[name])
    worse = {name for name in means if (c := contrast(comparisons, best, name)) and c.better == best}
    return set(means) - worse if worse else set()


def _members(trial: Trial, series: str, eps: float) -> list[Entry]:
    return [
        entry for entry in trial.entries if entry.series == series and (eps == 0 or trial.accuracy(entry, WORST, eps) is not None)
    ]


def _pairs(first: list[Entry], second: list[Entry]) -> list[tuple[Entry, Entry]]:
    if len(first) < len(second):
        return [(a, b) for b, a in _pairs(second, first)]
    if not second:
        return []
    seeds = {entry.run.record.seed: entry for entry in second}
    return [(a, seeds.get(a.run.record.seed, second[min(place, len(second) - 1)])) for place, a in enumerate(first)]
