"""The evidence of a report is runs by name, comparable evaluations and their tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from robust_lowrank.records import Run
from robust_lowrank.reporting.comparing.comparisons import Tests, compare
from robust_lowrank.reporting.comparing.entries import Entry, arrange
from robust_lowrank.reporting.comparing.evaluations import Evaluation, find_evaluations


@dataclass(frozen=True)
class Evidence:
    """The runs of a report in their order, and the evaluations that they share, the one that says most first."""

    entries: tuple[Entry, ...]
    evaluations: tuple[Evaluation, ...] = ()
    _tests: dict[str, Tests] = field(default_factory=dict, repr=False)

    @property
    def measured(self) -> tuple[Entry, ...]:
        """The runs whose spectra were recorded."""
        return tuple(entry for entry in self.entries if len(entry.run.spectra))

    @property
    def methods(self) -> dict[str, str]:
        """The method of each series, in their order."""
        return {entry.series: entry.run.record.method for entry in self.entries}

    def tests(self, evaluation: Evaluation) -> Tests:
        """Return the paired tests at every budget of an evaluation, and of clean accuracy; they are made once."""
        if evaluation.slug not in self._tests:
            self._tests[evaluation.slug] = {eps: compare(evaluation, eps) for eps in (0.0, *evaluation.eps)}
        return self._tests[evaluation.slug]


def gather(runs: Sequence[Run]) -> Evidence:
    """Name the runs and find what may be compared of them.

    Raises:
        UserError: there are no runs.
    """
    entries = arrange(runs)
    return Evidence(entries, find_evaluations(entries))
