"""Logs as the tools write them, of verdicts that are given."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def sample_of_lm_eval(doc_id: int, *, filtered: str = "none", task: str = "t", **metrics: Any) -> dict[str, Any]:
    """A line of `samples_TASK_DATE.jsonl`, with the keys that `--log_samples` writes."""
    return {
        "doc_id": doc_id,
        "doc": {"question": f"How much is {doc_id} + 1?", "answer": str(doc_id + 1)},
        "target": str(doc_id + 1),
        "arguments": {"gen_args_0": {"arg_0": "Q: ...", "arg_1": {"until": ["Q:"], "do_sample": False}}},
        "resps": [["..."]],
        "filtered_resps": ["..."],
        "filter": filtered,
        "metrics": list(metrics),
        "doc_hash": f"{task}{doc_id:04x}",
        "prompt_hash": "ab",
        "target_hash": "cd",
        **metrics,
    }


def write_lines(path: Path, samples: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return path


def sample_of_inspect(name: int | str, scores: Mapping[str, Any] | None, *, epoch: int = 1, target: str = "yes") -> dict[str, Any]:
    told = (
        None if scores is None else {scorer: {"value": value, "answer": "yes", "metadata": {}} for scorer, value in scores.items()}
    )
    return {"id": name, "epoch": epoch, "input": "Is it?", "target": target, "scores": told, "metadata": {}}


def write_eval(
    path: Path, samples: Sequence[dict[str, Any]], *, summaries: str = "summaries.json", packed: int = zipfile.ZIP_DEFLATED
) -> Path:
    """An `.eval` file; `summaries` names the summary of all, or is "parts" for those of an unfinished log, or "" for none."""
    with zipfile.ZipFile(path, "w", packed) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": {"task": "t", "model": "m"}, "plan": {}}))
        for sample in samples:
            archive.writestr(
                f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample | {"messages": [], "events": []})
            )
        if summaries == "parts":
            for number, sample in enumerate(samples, 1):
                archive.writestr(f"_journal/summaries/{number}.json", json.dumps([sample]))
        elif summaries:
            archive.writestr(summaries, json.dumps(samples))
            archive.writestr("header.json", json.dumps({"version": 2, "status": "success", "eval": {"task": "t", "model": "m"}}))
    return path


def inspect_document(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A log of inspect in its JSON format."""
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "t"},
        "results": {"scores": [{"metrics": {"stderr": float("nan")}}]},
        "samples": samples,
    }
