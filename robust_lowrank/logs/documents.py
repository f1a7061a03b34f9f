"""JSON documents are told by what they hold: logs of inspect, samples of lm-evaluation-harness, lists of verdicts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from robust_lowrank.errors import UserError, brief, shown
from robust_lowrank.logs import inspect_logs, lm_eval
from robust_lowrank.logs.scores import Row, number
from robust_lowrank.logs.texts import read_document

_ROBUSTBENCH = ("autoattack_acc", "clean_acc", "external", "reported")  # keys of its model_info, of which each file has some


def rows(path: Path) -> tuple[str, Iterator[Row]]:
    """Return what a JSON document is, and its rows.

    A document that is no tool's own may hold lists of 0 and 1, true and false, all of one length: each is a metric, and an
    example's name is its place in them, from 0.

    Raises:
        UserError: it holds no results of examples.
    """
    where, values = shown(path), read_document(path)
    if isinstance(values, list):
        return "lm-eval", lm_eval.rows((f"{where}, sample {place}", sample) for place, sample in enumerate(values, 1))
    if isinstance(values, dict) and isinstance(values.get("samples"), list) and "eval" in values:
        return "inspect", inspect_logs.samples(values["samples"], where)
    if isinstance(values, dict) and (lists := _verdicts(values)):
        lengths = {len(verdicts) for verdicts in lists.values()}
        if len(lengths) > 1:
            raise UserError(f"{where} has lists of verdicts of {brief(sorted(lengths))} examples: all have to be of the same ones")
        columns = zip(*lists.values(), strict=True)
        return "lists", (Row(str(place), dict(zip(lists, cells, strict=True))) for place, cells in enumerate(columns))
    raise UserError(f"{where} holds no results of examples: {_lacking(values)}")


def _verdicts(values: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        name: each for name, each in values.items() if isinstance(each, list) and each and all(number(v) is not None for v in each)
    }


def _lacking(values: Any) -> str:
    if isinstance(values, dict) and "results" in values and "configs" in values:
        return "it is a summary of lm-evaluation-harness\nRun it with --log_samples, and give samples_TASK_DATE.jsonl"
    if isinstance(values, dict) and any(key in values for key in _ROBUSTBENCH):
        return (
            "RobustBench's model_info has accuracies alone, which no paired test can do with\n"
            'Give verdicts: a CSV file with the columns example and correct, or a list in the document, "correct": [1, 0, 1]'
        )
    if isinstance(values, dict) and "eval" in values:
        return "it is a log of inspect without its samples (with --no-log-samples, or a header alone)"
    return "it is no log that is known, and has no lists of 0 and 1"
