"""Logs of other tools, damaged or of values of any type: they are refused in words, or read."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.logs import Choice, read_log
from tests.fuzz import fuzzed
from tests.fuzz.mutating import arbitrary, only_refuses
from tests.fuzz.test_tables import VALUES
from tests.logs.drawn import inspect_document, sample_of_inspect, sample_of_lm_eval, write_eval

CSV = b'example,correct,seed\n1,1,0\n"two, 2",false,0\n\r\n3,yes,0\n'
INSPECT = [
    sample_of_inspect(1, {"match": "C", "judge": {"a": 1}}),
    sample_of_inspect("b", None),
    sample_of_inspect(3, {"match": 0}),
]
LM_EVAL = [sample_of_lm_eval(number, acc=float(number), filtered=name) for number in (0, 1) for name in ("none", "other")]
CHOICES = [Choice(), Choice(["match", "acc,none", "correct"], threshold=0.5, repeat="0")]


def read(path: Path) -> None:
    for choice in CHOICES:
        only_refuses(lambda choice=choice: read_log(path, choice))


def archive(place: Path, summaries: str) -> bytes:
    return write_eval(place / "valid.eval", INSPECT, summaries=summaries).read_bytes()


@fuzzed
@given(content=arbitrary(CSV, *("\n".join(map(json.dumps, log)).encode() for log in (LM_EVAL, INSPECT))))
def test_logs_of_lines(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "log").write_bytes(content)
    read(tmp_path / "log")


@fuzzed
@given(data=st.data())
def test_logs_in_archives(tmp_path: Path, data: st.DataObject) -> None:
    valid = [archive(tmp_path, summaries) for summaries in ("summaries.json", "parts", "")]
    (tmp_path / "log").write_bytes(data.draw(arbitrary(*valid)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # zipfile's, of names that stand there twice
        read(tmp_path / "log")


@fuzzed
@given(key=st.sampled_from(["id", "doc_id", "epoch", "scores", "target", "metrics", "acc", "filter", "doc_hash"]), value=VALUES)
def test_values_of_logs(tmp_path: Path, key: str, value: object) -> None:
    for log in ([LM_EVAL[0] | {key: value}], inspect_document([INSPECT[0] | {key: value}]), {key: value, "a": [value, value]}):
        (tmp_path / "log").write_text(json.dumps(log))
        read(tmp_path / "log")
