"""The evidence of a report is runs by name, comparable evaluations and their tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from robust_lowrank.errors import UserError
from robust_lowrank.records import Run
from robust_lowrank.reporting.comparing.brackets import compare_proved, find_brackets
from robust_lowrank.reporting.comparing.comparisons import AllTests, compare, compare_seeds, corrected
from robust_lowrank.reporting.comparing.entries import Entry, arrange
from robust_lowrank.reporting.comparing.evaluations import Evaluation, find_evaluations


@dataclass(frozen=True)
class Evidence:
    """The runs of a report in their order, and the evaluations that they share, the one that says most first."""

    entries: tuple[Entry, ...]
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def measured(self) -> tuple[Entry, ...]:
        """The runs whose spectra were recorded."""
        return tuple(entry for entry in self.entries if len(entry.run.spectra))

    @property
    def methods(self) -> dict[str, str]:
        """The method of each series, in their order."""
        return {entry.series: entry.run.record.method for entry in self.entries}

    def tests(self, evaluation: Evaluation) -> AllTests:
        """Return the tests of an evaluation, corrected together with those of all the others; they are made once."""
        return self._tests[evaluation.slug]

    @cached_property
    def _tests(self) -> dict[str, AllTests]:
        return corrected({evaluation.slug: _tested(evaluation) for evaluation in self.evaluations})


def gather(runs: Sequence[Run]) -> Evidence:
    """Name the runs and find what may be compared of them.

    Raises:
        UserError: there are no runs, or two are one network, which is no second seed.
    """
    _require_different(runs)
    entries = arrange(runs)
    return Evidence(entries, find_evaluations(entries))


def _require_different(runs: Sequence[Run]) -> None:
    known: dict[tuple[str, int, str], Run] = {}
    for run in runs:
        one = run.record.label, run.record.seed, run.record.hashes.get("weights", str(run.path))
        if (other := known.setdefault(one, run)).path.resolve() != run.path.resolve():
            raise UserError(
                f"{run.path} and {other.path} hold one network, {run.record.label} of seed {run.record.seed}, with the same "
                "weights: a copy is no second seed; give one of them"
            )


def _tested(evaluation: Evaluation) -> AllTests:
    budgets = (0.0, *evaluation.eps)
    return AllTests(
        attacked=tuple(test for eps in budgets for test in compare(evaluation, eps)),
        seeds=tuple(test for eps in budgets for test in compare_seeds(evaluation, eps)),
        proved=compare_proved(evaluation, find_brackets(evaluation)),
    )
