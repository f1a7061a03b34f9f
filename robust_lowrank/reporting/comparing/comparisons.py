"""Comparisons say which of two networks is better: paired bootstrap and exact McNemar tests, Holm-corrected."""

from dataclasses import dataclass
from functools import reduce
from itertools import combinations

from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation
from robust_lowrank.statistics import Bounds, Interval, pairwise

ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same examples; an example counts as right if it holds under every attack at `eps`.

    Unresolved examples count against a difference (`statistics.Comparison`): what is supported holds however they would turn out.
    """

    first: Entry
    second: Entry
    eps: float  # 0 is clean accuracy
    examples: int
    only_first: int  # right by the first network alone
    only_second: int
    difference: Interval  # accuracy of the first less that of the second, with its paired bootstrap interval
    p: float
    adjusted: float  # Holm-corrected over `family` comparisons
    family: int

    @property
    def supported(self) -> bool:
        """True where the corrected p-value is below 5 %."""
        return self.adjusted < ALPHA

    @property
    def better(self) -> Entry | None:
        """The better network, where the test supports one."""
        better = self.first if self.difference.value > 0 else self.second
        return better if self.supported else None


Tests = dict[float, tuple[Comparison, ...]]  # by eps, 0 for clean accuracy


@dataclass(frozen=True)
class Contrast:
    """The result of all pairs of runs together, of one series against another."""

    p: float  # the largest corrected p-value
    pairs: int  # of runs
    family: int
    discordance: float  # share of the examples on which one is right and the other wrong, mean over the pairs
    better: str | None  # the series that is better in every pair


def compare(evaluation: Evaluation, eps: float) -> tuple[Comparison, ...]:
    """Test every pair of series at one budget, seed by seed; all the tests of a budget are one family for Holm.

    Every run takes part: it meets the run of its own seed, or where there is none the one in its place, or the last.
    Verdicts are the worst case over the suite's attacks; `eps` 0 compares clean accuracy.
    """
    pairs = [
        pair
        for first, second in combinations(evaluation.series, 2)
        for pair in _pairs(_members(evaluation, first, eps), _members(evaluation, second, eps))
    ]
    if not pairs:
        return ()
    held = {entry.name: evaluation.held(entry, eps) for pair in pairs for entry in pair}
    examples = reduce(lambda common, index: common.intersection(index), (frame.index for frame in held.values()))
    verdicts = {
        name: Bounds(common["least"].to_numpy(), common["most"].to_numpy())
        for name, frame in held.items()
        for common in [frame.reindex(examples)]
    }
    tests = pairwise(verdicts, pairs=[(first.name, second.name) for first, second in pairs])
    return tuple(
        Comparison(first, second, eps, len(examples), t.only_a, t.only_b, t.difference, t.p, t.p_holm, len(tests))
        for (first, second), t in zip(pairs, tests, strict=True)
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
        discordance=sum((c.only_first + c.only_second) / c.examples for c in between) / len(between),
        better=better.pop() if len(better) == 1 else None,
    )


def leaders(evaluation: Evaluation, eps: float, comparisons: tuple[Comparison, ...]) -> set[str]:
    """Return the best series at a budget and those which the tests cannot tell from it.

    Empty where no series is significantly worse than the best: then nothing deserves to stand out.
    """
    attack = CLEAN if eps == 0 else WORST
    means = {name: mean.value for name in evaluation.series if (mean := evaluation.mean(name, attack, eps))}
    if not means:
        return set()
    best = max(means, key=lambda name: means[name])
    worse = {name for name in means if (c := contrast(comparisons, best, name)) and c.better == best}
    return set(means) - worse if worse else set()


def _members(evaluation: Evaluation, series: str, eps: float) -> list[Entry]:
    return [
        entry
        for entry in evaluation.entries
        if entry.series == series and (eps == 0 or evaluation.accuracy(entry, WORST, eps) is not None)
    ]


def _pairs(first: list[Entry], second: list[Entry]) -> list[tuple[Entry, Entry]]:
    if len(first) < len(second):
        return [(a, b) for b, a in _pairs(second, first)]
    if not second:
        return []
    seeds = {entry.run.record.seed: entry for entry in second}
    return [(a, seeds.get(a.run.record.seed, second[min(place, len(second) - 1)])) for place, a in enumerate(first)]
