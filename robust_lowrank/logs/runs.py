"""A run directory has verdicts of its own: on clean examples, and the worst case over the attacks at each eps."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from robust_lowrank.errors import UserError, shown
from robust_lowrank.logs.scores import Row
from robust_lowrank.records import Result, read_run, strangers


def rows(path: Path, metrics: Sequence[str]) -> Iterator[Row]:
    """Yield a row an example of one result of a run; its metrics are `RESULT/clean` and `RESULT/EPS`, such as `quick/0.1`.

    An example whose budget ran out before a verdict has the score "unresolved", which is none.

    Raises:
        UserError: the run cannot be read, holds a result of another network, or has none or several of which `metrics` name none.
    """
    run = read_run(path)
    if stranger := next(strangers(run), None):
        raise UserError(f"{stranger}: move it away, and make it again")
    if not run.results:
        raise UserError(f"{shown(path)} has no results: attack it first, with rlr-eval attack")
    named = [name for name in run.results if any(metric.startswith(f"{name}/") for metric in metrics)] or list(run.results)
    if len(named) > 1:
        known = [f"{name}/{eps}" for name in named for eps in ("clean", *(f"{eps:g}" for eps in run.results[name].record.eps))]
        raise UserError(f"{shown(path)} has several results: choose one by --metric, such as {', '.join(known[:12])}")
    return _rows(named[0], run.results[named[0]])


def _rows(name: str, result: Result) -> Iterator[Row]:
    verdicts, data = result.verdicts, result.record.hashes["data"]
    scores: dict[int, dict[str, object]] = {}
    labels: dict[int, int] = {}
    columns = [verdicts[column].tolist() for column in ("example", "label", "clean_prediction", "eps", "verdict")]
    for example, label, prediction, eps, verdict in zip(*columns, strict=True):
        labels[example] = label
        found = scores.setdefault(example, {f"{name}/clean": prediction == label})
        found[metric] = _worse(found.get(metric := f"{name}/{eps:g}", True), verdict)
    yield from (Row(str(example), found, subject=f"{data} {labels[example]}") for example, found in scores.items())


def _worse(before: object, verdict: str) -> object:
    """Return what is known of an example after one more attack: broken by any is broken."""
    if before is False or verdict not in ("robust", "unresolved"):
        return False
    return verdict if verdict == "unresolved" else before
