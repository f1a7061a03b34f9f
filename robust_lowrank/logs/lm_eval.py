"""lm-evaluation-harness writes, with --log_samples, a JSON object a line for each example and filter."""

from collections.abc import Iterable, Iterator
from typing import Any

from robust_lowrank.errors import UserError, brief
from robust_lowrank.logs.scores import Row

DOCUMENT = "doc_id"
_NO_METRIC = {
    "arguments", "doc", "doc_hash", "doc_id", "filter", "filtered_resps", "metrics", "prompt_hash", "resps", "target",
    "target_hash",
}  # fmt: skip


def rows(samples: Iterable[tuple[str, Any]]) -> Iterator[Row]:
    """Yield a row a document from its samples, each with the place where it stands.

    Where answers went through several filters there is a sample for each; their metrics are called `METRIC,FILTER`, as in the
    harness's own results.

    Raises:
        UserError: a sample is none.
    """
    merged: dict[str, list[tuple[str, dict[str, Any], str]]] = {}
    for where, sample in samples:
        document = sample.get(DOCUMENT) if isinstance(sample, dict) else None
        if not isinstance(document, int | str) or isinstance(document, bool):
            raise UserError(f"{where} is no sample of lm-evaluation-harness: its {DOCUMENT} is {brief(document)}")
        listed = sample.get("metrics")
        names = listed if isinstance(listed, list) else [name for name in sample if name not in _NO_METRIC]
        scores = {name: value for name in names if isinstance(name, str) and _is_scalar(value := sample.get(name))}
        merged.setdefault(str(document), []).append((str(sample.get("filter", "")), scores, _text(sample.get("doc_hash"))))
    several = len({filtered for samples_ in merged.values() for filtered, _, _ in samples_}) > 1
    for document, parts in merged.items():
        filters = [filtered for filtered, _, _ in parts]
        if len(set(filters)) < len(filters):
            yield from (
                Row(document, scores, subject=subject) for _, scores, subject in parts
            )  # which is refused as a repeated example
        else:
            named = {f"{name},{by}" if several else name: value for by, scores, _ in parts for name, value in scores.items()}
            yield Row(document, named, subject=parts[0][2])


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
