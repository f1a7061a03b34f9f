"""Evaluations gather the runs that may be compared: those put to one suite on the same examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.records import AccuracyRecord, Result, attack_title
from robust_lowrank.reporting.comparing.entries import Entry, series_names
from robust_lowrank.statistics import Interval, SeedSpread, over_seeds

CLEAN = "clean"
WORST = "worst"
SLUG = 80  # letters of a name in the names of files
FEW_EXAMPLES = 100  # below it a 95 % interval can be wider than 19 points
FLOOR = 0.05  # an eps at which no network holds more tells no networks apart


class Mean(NamedTuple):
    """A series' accuracy: the mean over its seeds, and the span of their intervals."""

    value: float
    low: float
    high: float
    seeds: int
    most: float  # the mean if every unresolved example is robust; `value` without any
    unresolved: int  # examples, over all seeds


@dataclass(frozen=True)
class Evaluation:
    """One suite on one set of examples, with every run that was put to it."""

    slug: str  # for file names and anchors, unique in a report
    suite: str
    norm: str
    results: dict[str, Result]  # by Entry.name
    entries: tuple[Entry, ...]
    apart: str = ""  # what sets it apart from others of the same suite and norm, such as `n = 500`
    _held: dict[tuple[str, float], pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @property
    def rules(self) -> str:
        """The suite with its norm, such as `standard, L∞`."""
        return f"{self.suite}, {numbers.norm(self.norm)}"

    @property
    def title(self) -> str:
        """The suite with its norm, and what sets it apart where a report has several of these."""
        return ", ".join(filter(None, (self.rules, self.apart)))

    @property
    def data(self) -> str:
        """The name of the data set."""
        return self.entries[0].run.record.data

    @property
    def series(self) -> list[str]:
        """The series that took part, in the order of the report."""
        return series_names(self.entries)

    @property
    def repeated(self) -> bool:
        """True where a series has several seeds."""
        return len(self.entries) > len(self.series)

    @property
    def eps(self) -> list[float]:
        """The budgets, ascending."""
        return sorted({eps for result in self.results.values() for eps in result.record.eps})

    @property
    def attacks(self) -> list[str]:
        """The attacks in the order in which they ran, without clean accuracy and worst case."""
        recorded = dict.fromkeys(a.attack for result in self.results.values() for a in result.record.accuracies)
        return [attack for attack in recorded if attack not in (CLEAN, WORST)]

    @property
    def coverage(self) -> str:
        """The attacks in words, with the budgets of those that did not run at all, such as `FGSM and AutoAttack (eps 0.1 only)`."""
        attacks = []
        for attack in self.attacks:
            budgets = [numbers.budget(eps) for eps in self.eps if attack in self.attacks_at(eps)]
            limit = f" (eps {numbers.listing(budgets)} only)" if len(budgets) < len(self.eps) else ""
            attacks.append(self.title_of(attack) + limit)
        return numbers.listing(attacks)

    def title_of(self, attack: str) -> str:
        """Return an attack's name as papers write it."""
        titles = (result.record.title(attack) for result in self.results.values())
        return next(filter(None, titles), None) or attack_title(attack)

    def attacks_at(self, eps: float) -> list[str]:
        """The attacks that ran at a budget."""
        return [attack for attack in self.attacks if any(self.accuracy(entry, attack, eps) is not None for entry in self.entries)]

    @property
    def examples(self) -> int:
        """The number of examples, the same for every run."""
        return next(a.total for result in self.results.values() for a in result.record.accuracies)

    @property
    def interval(self) -> str:
        """The kind of interval, such as `Wilson 95 %`."""
        return next(iter(self.results.values())).record.interval

    @property
    def headline_eps(self) -> float:
        """The budget that the summary speaks of: the middle one, or the nearest below it that any network withstands at all.

        Which network is better has no part in the choice, and tests are corrected over every eps whichever is chosen.
        """
        middle = len(self.eps) // 2
        return next((eps for eps in reversed(self.eps[: middle + 1]) if self._best(eps) > FLOOR), self.eps[middle])

    @property
    def at_the_floor(self) -> list[float]:
        """The budgets from the middle one down that the summary passes over, as no network holds more than 5 % there."""
        return [eps for eps in self.eps[: len(self.eps) // 2 + 1] if eps > self.headline_eps]

    @property
    def threat(self) -> str:
        """The norm with the headline eps, such as `L∞ eps 0.1`."""
        return f"{numbers.norm(self.norm)} eps {numbers.budget(self.headline_eps)}"

    @property
    def unresolved(self) -> int:
        """The number of verdicts that the budget did not suffice for."""
        return sum(a.unresolved for result in self.results.values() for a in result.record.accuracies if a.attack == WORST)

    @property
    def sampled(self) -> bool:
        """True where an ensemble was tried on a sample, which bounds what it would have left."""
        return any(a.least is not None for result in self.results.values() for a in result.record.accuracies)

    @property
    def implied(self) -> bool:
        """True where examples count as robust at an eps because a search within a larger one found nothing."""
        return any(a.implied for result in self.results.values() for a in result.record.accuracies)

    def listing(self, names: list[str]) -> str:
        """Return the names of runs as a sentence lists them, or `every network` where they are all of several."""
        return "every network" if len(names) == len(self.entries) > 1 else numbers.listing(names)

    def accuracy(self, entry: Entry, attack: str, eps: float = 0.0) -> AccuracyRecord | None:
        """Return a recorded accuracy, or None where there is none; `eps` is of no account for clean accuracy."""
        result = self.results.get(entry.name)
        accuracies = result.record.accuracies if result else ()
        return next((a for a in accuracies if a.attack == attack and (attack == CLEAN or a.eps == eps)), None)

    def mean(self, series: str, attack: str, eps: float = 0.0) -> Mean | None:
        """Return a series' accuracy over its seeds, or None where nothing is recorded."""
        accuracies = self._members(series, attack, eps)
        if not accuracies:
            return None
        value, most = (sum(values) / len(accuracies) for values in ([a.value for a in accuracies], [a.most for a in accuracies]))
        unresolved = sum(a.unresolved for a in accuracies)
        return Mean(value, min(a.low for a in accuracies), max(a.high for a in accuracies), len(accuracies), most, unresolved)

    def spread(self, series: str, attack: str, eps: float = 0.0) -> SeedSpread | None:
        """Return how a series' accuracy varies over its seeds, or None where nothing is recorded.

        With unresolved examples the mean is the least that it can be, and the interval reaches to that of the most.
        """
        accuracies = self._members(series, attack, eps)
        if not accuracies:
            return None
        least, most = over_seeds([a.value for a in accuracies]), over_seeds([a.most for a in accuracies])
        if least.interval is None or most.interval is None:
            return least
        return least._replace(interval=Interval(least.mean, least.interval.low, most.interval.high))

    def interval_of(self, series: str, attack: str, eps: float = 0.0) -> Interval | None:
        """Return a series' accuracy with its t-interval over seeds, within [0, 1]; of a single run with that over examples."""
        mean, spread = self.mean(series, attack, eps), self.spread(series, attack, eps)
        if mean is None or spread is None:
            return None
        if spread.interval is None:
            return Interval(mean.value, mean.low, mean.high)
        return Interval(mean.value, max(spread.interval.low, 0.0), min(spread.interval.high, 1.0))

    def parameters(self, series: str) -> float | None:
        """Return the parameters for inference, the mean over the seeds; None where a network does not show them."""
        counts = [entry.run.record.parameters.inference for entry in self.entries if entry.series == series]
        return sum(counts) / len(counts) if counts and all(counts) else None

    def held(self, entry: Entry, eps: float) -> pd.DataFrame:
        """Return by example whether the run was right: under every attack at `eps`, or on the clean input at 0.

        Columns as in `statistics.Bounds`: `least` counts unresolved examples as broken, `most` as robust. It is found once.
        """
        if (entry.name, eps) not in self._held:
            self._held[entry.name, eps] = self._find_held(entry, eps)
        return self._held[entry.name, eps]

    def _find_held(self, entry: Entry, eps: float) -> pd.DataFrame:
        verdicts = self.results[entry.name].verdicts
        if eps == 0:
            least = most = verdicts["clean_prediction"] == verdicts["label"]
        else:
            verdicts = verdicts[verdicts["eps"] == eps]
            least, most = verdicts["verdict"] == "robust", verdicts["verdict"].isin(("robust", "unresolved"))
        return pd.DataFrame({"least": least, "most": most}).groupby(verdicts["example"]).all()

    def _best(self, eps: float) -> float:
        known = (self.accuracy(entry, WORST, eps) for entry in self.entries)
        return max((accuracy.most for accuracy in known if accuracy), default=1.0)

    def _members(self, series: str, attack: str, eps: float) -> list[AccuracyRecord]:
        entries = (entry for entry in self.entries if entry.series == series)
        return [accuracy for entry in entries if (accuracy := self.accuracy(entry, attack, eps))]


def find_evaluations(entries: Sequence[Entry]) -> tuple[Evaluation, ...]:
    """Gather the evaluations that the runs share, the one that says most first.

    Only runs with the same data hash and the same suite hash share one. The order: most runs; those on too few examples to
    tell much apart behind the others; a suite with AutoAttack; most examples.
    """
    gathered: dict[tuple[str, ...], dict[str, Result]] = {}
    for entry in entries:
        for result in entry.run.results.values():
            record = result.record
            key = (record.suite, record.norm, record.hashes["data"], record.hashes["attack"])
            gathered.setdefault(key, {})[entry.name] = result
    evaluations: list[Evaluation] = []
    for (suite, norm, _, _), results in sorted(gathered.items(), key=lambda item: _rank(item[1])):
        slug = _slug(f"{suite}-{norm}")
        namesakes = sum(evaluation.slug.startswith(slug) for evaluation in evaluations)
        members = tuple(entry for entry in entries if entry.name in results)
        evaluations.append(Evaluation(slug + (f"-{namesakes + 1}" if namesakes else ""), suite, norm, results, members))
    return tuple(replace(each, apart=_apart(each, evaluations)) for each in evaluations)


def _apart(evaluation: Evaluation, evaluations: Sequence[Evaluation]) -> str:
    """Return what sets an evaluation apart from those of the same suite and norm: its examples, budgets, or its place."""
    alike = [other for other in evaluations if (other.suite, other.norm) == (evaluation.suite, evaluation.norm)]
    others = [other for other in alike if other is not evaluation]
    if not others:
        return ""
    budgets = numbers.listing([numbers.budget(eps) for eps in evaluation.eps])
    if all(other.examples != evaluation.examples for other in others):
        return f"n = {numbers.count(evaluation.examples)}"
    if all(other.eps != evaluation.eps for other in others):
        return f"eps {budgets}"
    return f"no. {alike.index(evaluation) + 1}"


def _rank(results: dict[str, Result]) -> tuple[int, bool, bool, int]:
    first = next(iter(results.values())).record
    with_autoattack = any(a.attack == "autoattack" for a in first.accuracies)
    examples = first.accuracies[0].total
    return -len(results), examples < FEW_EXAMPLES, not with_autoattack, -examples


def _slug(name: str) -> str:
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split())[:SLUG]
