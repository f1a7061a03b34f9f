"""A result has a place of its own in a run directory, and takes no other result's."""

from typing import NamedTuple

from robust_lowrank import evaluation, records
from robust_lowrank.errors import UserError


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


def place_result(run: records.RunFiles, suite: str, known: evaluation.Fingerprint, config: evaluation.EvalConfig, n: int) -> Place:
    """Return the place of a result: the directory of the suite's name, or the next free one, `-2` and so on.

    A result that is the same but not whole is made again where it is: a file of it is lost or damaged, or a budget has left
    examples unresolved. Where its record is lost, the verdicts tell whether it was of this attack.

    Args:
        config: how the network is attacked.
        n: on how many examples.

    Example:
        >>> place_result(records.RunFiles(Path("runs/condlr")), "quick", known, config, 500).files.root.name  # doctest: +SKIP
        'quick-2'

    Raises:
        UserError: a record is of another version.
    """
    beside: dict[str, records.ResultRecord] = {}
    there = set(run.existing_results(suite))
    damaged: records.ResultFiles | None = None
    for files in map(run.result, run.existing_results(suite)):
        try:
            if "schema_version" not in records.read_json(files.record):
                raise ValueError(files.record)
        except (ValueError, TypeError):  # a UserError is one
            damaged = damaged or (files if _may_be(files, config, n) else None)
            continue
        stored = records.read_record(files.record, records.ResultRecord)
        if stored.suite != suite:
            continue  # a suite whose own name ends in a number
        if known.stale(stored):
            beside[files.root.name] = stored
        elif any(entry.unresolved for entry in stored.accuracies) or records.broken_seals(files.record, stored, files.beside):
            return Place(files, None, beside)
        else:
            return Place(files, stored, beside)
    free = run.result(next(name for name in run.result_names(suite) if name not in there))
    return Place(damaged or free, None, beside)


def _may_be(files: records.ResultFiles, config: evaluation.EvalConfig, n: int) -> bool:
    """Return whether a result without a record was of such an attack: its verdicts say so, or it has none that can be read."""
    if not files.verdicts.is_file():
        return True
    try:
        verdicts = records.read_frame(files.verdicts, records.VERDICTS)
    except UserError:
        return False
    eps = {radius for attack in config.suite.attacks for radius in config.suite.radii(attack)}
    of_this = set(verdicts["norm"]) == {config.suite.norm} and set(verdicts["seed"]) == {config.seed}
    return of_this and set(verdicts["eps"]) == eps and verdicts["example"].nunique() == n


def _listed(numbers: list[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
