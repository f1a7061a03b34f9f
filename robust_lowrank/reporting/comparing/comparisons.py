"""Comparisons say which of two networks, or of two methods over their seeds, is better, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import NamedTuple, TypeVar

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import WORST, Evaluation
from robust_lowrank.statistics import Bounds, Interval, holm, pairwise, seed_difference

ALPHA = 0.05
MANY = 12  # methods, of which every two are tested


@dataclass(frozen=True, kw_only=True)
class Tested:
    """The test of one difference; until `corrected` has seen all tests of a report, it supports nothing."""

    eps: float  # 0 is clean accuracy
    difference: Interval  # of the first less the second, with its 95 % interval
    p: float
    adjusted: float = 1.0  # corrected by Holm's procedure over `family` tests
    family: int = 0

    @property
    def supported(self) -> bool:
        """True where the corrected p-value is below 5 %."""
        return self.adjusted < ALPHA


@dataclass(frozen=True, kw_only=True)
class Comparison(Tested):
    """Two networks on the same examples; an example counts as right if it holds under every attack at `eps`.

    Unresolved examples count against a difference (`statistics.Comparison`): what is supported holds however they would turn out.
    """

    first: Entry
    second: Entry
    examples: int
    only_first: int  # right by the first network alone
    only_second: int

    @property
    def better(self) -> Entry | None:
        """The better network, where the test supports one."""
        better = self.first if self.difference.value > 0 else self.second
        return better if self.supported else None


@dataclass(frozen=True, kw_only=True)
class SeedComparison(Tested):
    """Two series over their seeds: the accuracies of runs are draws from normal distributions, and a t-test compares their means.

    Unresolved examples are decided against either series, and the larger p-value counts.
    """

    first: str
    second: str
    seeds: tuple[int, int]
    paired: bool  # both have the same seeds

    @property
    def better(self) -> str | None:
        """The better series, where the test supports one."""
        better = self.first if self.difference.value > 0 else self.second
        return better if self.supported else None

    @property
    def title(self) -> str:
        """The test in words, such as `paired t-test over 5 seeds`."""
        return (
            f"paired t-test over {self.seeds[0]} seeds"
            if self.paired
            else "Welch's t-test over {} and {} seeds".format(*self.seeds)
        )


_T = TypeVar("_T", bound=Tested)
_N = TypeVar("_N")


class AllTests(NamedTuple):
    """All tests of one evaluation."""

    attacked: tuple[Comparison, ...] = ()  # at every eps, and at 0 of clean accuracy
    seeds: tuple[SeedComparison, ...] = ()  # likewise, of series that have several seeds each
    proved: tuple[Comparison, ...] = ()  # of what is certified

    def at(self, eps: float) -> tuple[Comparison, ...]:
        """Return the paired tests at a budget, or of clean accuracy at 0."""
        return tuple(test for test in self.attacked if test.eps == eps)


def compared(names: Sequence[_N]) -> list[tuple[_N, _N]]:
    """Return the pairs that are tested: every two, and of more than `MANY` each against the first.

    Of all pairs of thirty methods Holm's correction would leave nothing to be seen.

    Example:
        >>> compared(["dense", "condlr", "dlrt"])
        [('dense', 'condlr'), ('dense', 'dlrt'), ('condlr', 'dlrt')]
        >>> len(compared(range(30)))
        29
    """
    return list(combinations(names, 2)) if len(names) <= MANY else [(names[0], name) for name in names[1:]]


def corrected(tests: Mapping[str, AllTests]) -> dict[str, AllTests]:
    """Return the tests of all of a report's evaluations, with p-values corrected by Holm's procedure over all of them together."""
    everything = [test for groups in tests.values() for group in groups for test in group]
    adjusted = iter(holm([test.p for test in everything]))

    def correct(group: Sequence[_T]) -> tuple[_T, ...]:
        return tuple(replace(test, adjusted=next(adjusted), family=len(everything)) for test in group)

    return {
        name: AllTests(attacked=correct(groups.attacked), seeds=correct(groups.seeds), proved=correct(groups.proved))
        for name, groups in tests.items()
    }


def correction(family: int) -> str:
    """Return in words over how many tests a p-value is corrected."""
    return f"Holm-corrected over all {numbers.count(family)} tests of this report" if family > 1 else "the only test of this report"


def compare(evaluation: Evaluation, eps: float) -> tuple[Comparison, ...]:
    """Test the pairs of series that are `compared` at one budget, seed by seed.

    Every run takes part: it meets the run of its own seed, or where there is none the one in its place, or the last.
    Verdicts are the worst case over the suite's attacks; `eps` 0 compares clean accuracy.
    """
    pairs = [
        pair
        for first, second in compared(evaluation.series)
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
    return compare_verdicts(pairs, verdicts, eps)


def compare_seeds(evaluation: Evaluation, eps: float) -> tuple[SeedComparison, ...]:
    """Test the pairs, of series with two seeds or more, that are `compared` at one budget, or at 0 on clean examples."""
    members = {name: _members(evaluation, name, eps) for name in evaluation.series}
    several = [name for name in members if len(members[name]) > 1]
    return tuple(_over_seeds(evaluation, eps, members[first], members[second]) for first, second in compared(several))


def _over_seeds(evaluation: Evaluation, eps: float, first: list[Entry], second: list[Entry]) -> SeedComparison:
    seeds = [[entry.run.record.seed for entry in members] for members in (first, second)]
    paired = seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0])
    (a_least, a_most), (b_least, b_most) = (_accuracies(evaluation, members, eps) for members in (first, second))
    lowest = seed_difference(a_least, b_most, paired=paired)
    highest = seed_difference(a_most, b_least, paired=paired)
    least = min(lowest.difference.value, highest.difference.value, key=abs)
    open_ = lowest.difference.value < 0 < highest.difference.value
    return SeedComparison(
        eps=eps,
        first=first[0].series,
        second=second[0].series,
        seeds=(len(first), len(second)),
        paired=paired,
        difference=Interval(0.0 if open_ else least, lowest.difference.low, highest.difference.high),
        p=1.0 if open_ else max(lowest.p, highest.p),
    )


def _accuracies(evaluation: Evaluation, members: list[Entry], eps: float) -> tuple[list[float], list[float]]:
    """Return the accuracy of each run with its unresolved examples broken, and with them robust."""
    held = [evaluation.held(entry, eps) for entry in members]
    return [float(frame["least"].mean()) for frame in held], [float(frame["most"].mean()) for frame in held]


def compare_verdicts(pairs: Sequence[tuple[Entry, Entry]], verdicts: Mapping[str, Bounds], eps: float) -> tuple[Comparison, ...]:
    """Test pairs of networks by their verdicts on the same examples, which are given by name."""
    tests = pairwise(verdicts, pairs=[(first.name, second.name) for first, second in pairs])
    return tuple(
        Comparison(
            first=first,
            second=second,
            eps=eps,
            examples=len(verdicts[first.name].least),
            only_first=test.only_a,
            only_second=test.only_b,
            difference=test.difference,
            p=test.p,
        )
        for (first, second), test in zip(pairs, tests, strict=True)
    )


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
