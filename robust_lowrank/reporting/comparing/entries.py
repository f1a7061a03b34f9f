"""Entries are the runs of a report, named so that a reader can tell them apart."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from robust_lowrank.errors import UserError, shown
from robust_lowrank.records import Result, Run, strangers, supersedes

CROWD = 30  # networks, of more than which charts with a line or a panel for each would show nothing

_BASELINES = {"dense": 0, "vanilla": 1}
_NOT_IDENTITY = {"seed", "out", "label"}


@dataclass(frozen=True)
class Entry:
    """A run with its names: `series` is what is compared and shared by all seeds, `variant` sets the run apart from the others."""

    run: Run
    series: str
    variant: str = ""
    superseded: Mapping[str, tuple[Result, str]] = field(default_factory=dict)  # what the run has no more, with what has come since

    @property
    def name(self) -> str:
        """The run's own name, unique in a report."""
        return f"{self.series}, {self.variant}" if self.variant else self.series

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number where the run's record has none."""
        names = self.run.record.classes
        return shown(names[label]) if 0 <= label < len(names) else str(label)


def arrange(runs: Sequence[Run]) -> tuple[Entry, ...]:
    """Name the runs and order them: dense networks, plain low-rank ones, then as given; seeds ascending.

    Runs with the same label, model, data and configuration but for the seed form one series. Where one label stands for
    several series, what distinguishes them is added to the name. A directory given twice counts once.

    Raises:
        UserError: there are no runs, or one holds a result or a certificate of another network.
    """
    if not runs:
        raise UserError("nothing to report: no run directories were given")
    for run in runs:
        if stranger := next(strangers(run), None):
            raise UserError(f"{stranger}: move it away, and make it again")
    distinct = list({run.path.resolve(): run for run in runs}.values())
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(distinct, key=lambda run: _BASELINES.get(run.record.method, len(_BASELINES))):
        groups.setdefault((run.record.label, json.dumps(_settings(run), sort_keys=True, default=str)), []).append(run)
    names = _series_names([members[0] for members in groups.values()])
    entries: list[Entry] = []
    for name, members in zip(names, groups.values(), strict=True):
        members.sort(key=lambda run: run.record.seed)
        entries += [_entry(run, name, variant) for run, variant in zip(members, _variants(members), strict=True)]
    return tuple(entries)


def _entry(run: Run, series: str, variant: str) -> Entry:
    """Return a run's entry, with superseded results set aside."""
    newer = {
        name: [other for other, since in run.results.items() if supersedes(since.record, result.record)]
        for name, result in run.results.items()
    }
    kept = {name: result for name, result in run.results.items() if not newer[name]}
    superseded = {
        name: (run.results[name], next(other for other in reversed(others) if other in kept))
        for name, others in newer.items()
        if others
    }
    return Entry(replace(run, results=kept), series, variant, superseded)


def series_names(entries: Iterable[Entry]) -> list[str]:
    """Return the series' names in the order of the report."""
    return list(dict.fromkeys(entry.series for entry in entries))


def _variants(runs: list[Run]) -> list[str]:
    if len(runs) == 1:
        return [""]
    seeds = [f"seed {run.record.seed}" for run in runs]
    if len(set(seeds)) == len(seeds):
        return seeds
    return [f"{seed}, {run.path}" for seed, run in zip(seeds, runs, strict=True)]


def _settings(run: Run) -> dict[str, Any]:
    return {"data": run.record.data, "model": run.record.model, "method": run.record.method, **_flat(run.record.config)}


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif key not in _NOT_IDENTITY:
            flat[prefix + key] = value
    return flat


def _series_names(representatives: list[Run]) -> list[str]:
    names = []
    for run in representatives:
        namesakes = [_settings(other) for other in representatives if other.record.label == run.record.label]
        settings = _settings(run)
        differing = [key for key in settings if any(other.get(key) != settings[key] for other in namesakes)]
        values = [
            str(settings[key]) if key in ("data", "model", "method") else f"{key.rpartition('.')[2]}={settings[key]}"
            for key in differing
        ]
        names.append(run.record.label + (f" ({', '.join(dict.fromkeys(values[:3]))})" if values else ""))
    repeated = {name for name in names if names.count(name) > 1}
    return [f"{name} [{run.path}]" if name in repeated else name for name, run in zip(names, representatives, strict=True)]
