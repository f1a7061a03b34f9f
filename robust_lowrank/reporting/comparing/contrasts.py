"""Contrasts say of two methods, each with one run or several, which is better."""

from dataclasses import dataclass

from robust_lowrank.reporting.comparing.comparisons import AllTests, SeedComparison
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation


@dataclass(frozen=True)
class Contrast:
    """The result of all pairs of runs together, of one series against another."""

    p: float  # the largest corrected p-value of the pairs
    pairs: int  # of runs
    family: int
    discordance: float  # share of the examples on which one is right and the other wrong, mean over the pairs
    over_examples: str | None  # the series that is better in every pair of runs
    over_seeds: SeedComparison | None  # the test over seeds, where both series have several

    @property
    def better(self) -> str | None:
        """The series that is better by all tests: in every pair of runs and, where both have several, over their seeds."""
        agreed = self.over_seeds is None or self.over_seeds.better == self.over_examples
        return self.over_examples if agreed else None

    @property
    def better_somehow(self) -> str | None:
        """The series that is better by either kind of test, where the other does not contradict it."""
        found = {self.over_examples, self.over_seeds.better if self.over_seeds else None} - {None}
        return found.pop() if len(found) == 1 else None

    @property
    def basis(self) -> str:
        """What supports the difference, in words, where both have several seeds; empty where examples alone can."""
        if self.over_seeds is None:
            return ""
        if self.better:
            return "over examples and over seeds"
        if self.better_somehow is None:
            return "neither over examples nor over seeds"
        return "over examples, not over seeds" if self.over_examples else "over seeds, not over examples in every pair of runs"


def contrast(tests: AllTests, eps: float, one: str, other: str) -> Contrast | None:
    """Return the joint result of the tests between two series at a budget, or None where there are none."""
    between = [test for test in tests.at(eps) if {test.first.series, test.second.series} == {one, other}]
    if not between:
        return None
    better = {test.better.series if test.better else None for test in between}
    return Contrast(
        p=max(test.adjusted for test in between),
        pairs=len(between),
        family=between[0].family,
        discordance=sum((test.only_first + test.only_second) / test.examples for test in between) / len(between),
        over_examples=better.pop() if len(better) == 1 else None,
        over_seeds=next((test for test in tests.seeds if test.eps == eps and {test.first, test.second} == {one, other}), None),
    )


def leaders(evaluation: Evaluation, tests: AllTests, eps: float) -> set[str]:
    """Return the best series at a budget and those which the tests cannot tell from it.

    Empty where no series is significantly worse than the best, or one was not tested against it: then nothing deserves to stand
    out.
    """
    attack = CLEAN if eps == 0 else WORST
    means = {name: mean.value for name in evaluation.series if (mean := evaluation.mean(name, attack, eps))}
    if not means:
        return set()
    best = max(means, key=lambda name: means[name])
    tested = {name: contrast(tests, eps, best, name) for name in means if name != best}
    if None in tested.values():
        return set()
    worse = {name for name, found in tested.items() if found and found.better == best}
    return set(means) - worse if worse else set()
