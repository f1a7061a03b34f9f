"""A result has a place of its own in a run directory, and takes no other result's."""

import json
from typing import NamedTuple

from robust_lowrank import evaluation, records


class Place(NamedTuple):
    """The place where the result of an attack on a run lies or will lie, and the results beside it, which are left as they are."""

    files: records.ResultFiles
    kept: records.ResultRecord | None  # the result, if it is there, whole, and of this network and attack
    beside: dict[str, records.ResultRecord]  # other results of the suite in this norm, by the names of their directories

    def said(self, record: records.ResultRecord) -> str:
        """Return in words what a new result makes of those beside it, a line each; nothing without any."""
        lines = []
        for name, other in self.beside.items():
            superseded = records.supersedes(record, other)
            fate = f"superseded by results/{self.files.root.name}, and kept" if superseded else "kept beside it"
            lines.append(f"results/{name}, on {other.accuracies[0].total} examples at eps {_listed(other.eps)}: {fate}")
        return "\n".join(lines)


def place_result(run: records.RunFiles, suite: str, known: evaluation.Fingerprint) -> Place:
    """Return the place of a result: the directory of the suite's name, or the next one, `-2` and so on.

    A result that is the same but not whole is made again where it is: a file of it is lost or damaged, or a budget has left
    examples unresolved.

    Example:
        >>> place_result(records.RunFiles(Path("runs/condlr")), "quick", known).files.root.name  # doctest: +SKIP
        'quick-2'

    Raises:
        UserError: a record is of another version.
    """
    beside: dict[str, records.ResultRecord] = {}
    damaged: records.ResultFiles | None = None
    for name in run.result_names(suite):
        files = run.result(name)
        if not files.root.is_dir():
            return Place(damaged or files, None, beside)
        try:
            json.loads(files.record.read_bytes())
        except (FileNotFoundError, ValueError):
            damaged = damaged or files
            continue
        stored = records.read_record(files.record, records.ResultRecord)
        if known.stale(stored):
            beside[name] = stored
        elif any(entry.unresolved for entry in stored.accuracies) or records.broken_seals(files.record, stored):
            return Place(files, None, beside)
        else:
            return Place(files, stored, beside)
    raise AssertionError("there is always another name")


def _listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
