"""Logs of each kind are read in the shape that their tools write, and what is not clear or not whole is refused."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.logs import Choice, named, read_log
from tests.logs.drawn import inspect_document, sample_of_inspect, sample_of_lm_eval, write_eval, write_lines

RIGHT = {"0": True, "1": False, "2": True}
LETTERS = {0: "C", 1: "I", 2: "C"}


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "example,correct\n0,1\n1,0\n2,1\n",
        "ID;Correct\r\n0;true\r\n\r\n1;False\r\n2;TRUE\r\n",
        "\ufeffseconds\tid\tcorrect\n0.1\t0\t1.0\n0.2\t1\t0\n0.3\t2\t1\n",
        'note,"example",correct\n"a, ""b""\nand c",0,yes\n,1,no\n,2,yes\n',
    ],
)
def test_csv(tmp_path: Path, text: str) -> None:
    log = read_log(written(tmp_path / "a.txt", text))
    assert (log.kind, log.metric, log.right, log.unscored) == ("csv", "correct", RIGHT, 0)


def test_a_column_of_csv_is_chosen_and_a_threshold_makes_scores_verdicts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "example,f1,seed\n0,0.7,0\n1,0.2,0\n2,1,0\n0,0,1\n1,0,1\n2,0.4,1\n3,,1\n")
    log = read_log(path, Choice(["f1"], threshold=0.4, repeat="1"))
    assert (log.metric, log.right, log.unscored) == ("f1", {"0": False, "1": False, "2": True}, 1)
    with pytest.raises(UserError, match=r"2 repetitions of its examples \(0, 1\).*\nChoose one: --repeat 0"):
        read_log(path)
    with pytest.raises(UserError, match=r"'f1' of the example '0' is '0.7'.*\n.*--threshold 0.5"):
        read_log(path, Choice(repeat="0"))
    with pytest.raises(UserError, match="no repetition '7': it has 0, 1"):
        read_log(path, Choice(repeat="7"))


def test_lm_eval(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "samples_t.jsonl", [sample_of_lm_eval(n, acc=float(right)) for n, right in enumerate(RIGHT.values())]
    )
    log = read_log(path)
    assert (log.kind, log.metric, log.right) == ("lm-eval", "acc", RIGHT)
    assert log.subjects["2"] == "t0002"


def test_lm_eval_with_several_filters_and_metrics(tmp_path: Path) -> None:
    samples = [
        sample_of_lm_eval(n, filtered=filtered, exact_match=float(right if filtered == "strict-match" else True), bleu=[[1], [2]])
        for filtered in ("strict-match", "flexible-extract")
        for n, right in enumerate(RIGHT.values())
    ]
    path = write_lines(tmp_path / "s.jsonl", samples)
    with pytest.raises(UserError, match="2 metrics, exact_match,strict-match, exact_match,flexible-extract\nChoose one: --metric "):
        read_log(path)
    assert read_log(path, Choice(["exact_match,strict-match"])).right == RIGHT
    with pytest.raises(UserError, match="no metric 'acc': it has exact_match,strict-match"):
        read_log(path, Choice(["acc"]))
    older = [
        {key: value for key, value in sample.items() if key not in ("metrics", "filter", "doc_hash")} for sample in samples[:3]
    ]
    assert read_log(written(tmp_path / "old.jsonl", json.dumps(older, indent=2))).right == RIGHT


@pytest.mark.parametrize("summaries", ["summaries.json", "summary.json", "parts", ""])
def test_inspects_archives(tmp_path: Path, summaries: str) -> None:
    samples = [sample_of_inspect(n, {"match": grade}) for n, grade in LETTERS.items()] + [sample_of_inspect("failed", None)]
    log = read_log(write_eval(tmp_path / "l.eval", samples, summaries=summaries))
    assert (log.kind, log.metric, log.right, log.unscored) == ("inspect", "match", RIGHT, 1)


def test_inspects_documents(tmp_path: Path) -> None:
    samples = [sample_of_inspect(n, {"match": grade, "judge": {"kind": 1, "true": n % 2}}) for n, grade in LETTERS.items()]
    path = written(tmp_path / "l.json", json.dumps(inspect_document(samples), indent=2))
    assert "NaN" in path.read_text()
    assert read_log(path, Choice(["match"])).right == RIGHT
    assert read_log(path, Choice(["judge/true", "absent"])).right == {name: not right for name, right in RIGHT.items()}
    with pytest.raises(UserError, match="3 metrics, match, judge/kind, judge/true"):
        read_log(path)
    with pytest.raises(UserError, match="several of the metrics that --metric names, match, judge/kind"):
        read_log(path, Choice(["match", "judge/kind"]))


def test_epochs_and_partial_grades_of_inspect(tmp_path: Path) -> None:
    samples = [
        sample_of_inspect(n, {"match": "P" if epoch == 2 else grade}, epoch=epoch)
        for epoch in (1, 2)
        for n, grade in LETTERS.items()
    ]
    path = write_eval(tmp_path / "l.eval", samples)
    with pytest.raises(UserError, match=r"2 repetitions of its examples \(1, 2\)"):
        read_log(path)
    assert read_log(path, Choice(repeat="1")).right == RIGHT
    with pytest.raises(UserError, match=r"'match' of the example '0' is 0\.5"):
        read_log(path, Choice(repeat="2"))
    assert set(read_log(path, Choice(repeat="2", threshold=0.5)).right.values()) == {True}


def test_lists_of_verdicts_in_a_document(tmp_path: Path) -> None:
    model = {
        "name": "A",
        "clean_acc": "91.2",
        "autoattack_acc": "52.1",
        "reported": "52.1",
        "robust": [1, 0, 1],
        "clean": [True, True, True],
    }
    path = written(tmp_path / "A.json", json.dumps(model))
    assert read_log(path, Choice(["robust"])).right == RIGHT
    with pytest.raises(UserError, match="2 metrics, robust, clean"):
        read_log(path)
    path.write_text(json.dumps(model | {"clean": [1]}))
    with pytest.raises(UserError, match=r"lists of verdicts of \[1, 3\] examples"):
        read_log(path)


REFUSED: dict[str, tuple[str, str]] = {
    "an accuracy alone": ('{"clean_acc": "91.2", "autoattack_acc": "52.1"}', "RobustBench's model_info has accuracies alone"),
    "a summary of lm-eval": (
        '{"results": {"t": {"acc,none": 0.5}}, "configs": {}}',
        "summary of lm-evaluation-harness\nRun it with --log_samples",
    ),
    "a header of inspect": ('{"version": 2, "eval": {}, "status": "success"}', "log of inspect without its samples"),
    "another document": ('{"a": {"b": 1}}', "no log that is known"),
    "a number": ("[1, 2]", "no sample of lm-evaluation-harness: its doc_id is None"),
    "no columns": ("<!DOCTYPE html>\n<p>Sign in</p>", "none of the logs that are known"),
    "nothing": ("", "none of the logs that are known"),
    "a heading alone": ("example,correct\n", "has no examples"),
    "no scores": ("example,correct\n1,\n", "no example with a score"),
    "a word": ("example,correct\n1,maybe\n", "'correct' of the example '1' is 'maybe', which is no score"),
    "not a number": ("example,correct\n1,nan\n", "is 'nan', which is no score"),
    "more than right": ("example,correct\n1,2\n", "--threshold 0.5"),
    "too few cells": ("example,correct\n1\n", "the row of '1' has 1 cells"),
    "an open quote": ('example,correct\n"1,1\n', "no CSV file"),
    "a name twice": ("example,correct\n1,1\n1,0\n", "has the example '1' twice"),
    "a title twice": ("id,correct,CORRECT\n1,1,1\n", "each once"),
    "a sample twice": (
        '{"doc_id": 1, "acc": 1, "filter": "none"}\n{"doc_id": 1, "acc": 1, "filter": "none"}\n',
        "the example '1' twice",
    ),
    "half a line": ('{"doc_id": 1, "acc": 1}\n{"doc_id": 2, "a', "line 2 cannot be read as JSON"),
    "a sample without a name": ('{"doc_id": 1, "acc": 1}\n{"doc_id": {}, "acc": 1}', "line 2 is no sample"),
    "metrics that are none": ('{"doc_id": 1, "metrics": ["acc"], "acc": [1]}', "no scores that are numbers"),
    "a nested value": ('{"a": ' + "[" * 100_000, "nested too deep"),
    "infinity": ('{"doc_id": 1, "acc": Infinity}', "is inf"),
    "a huge number": ('{"doc_id": 1, "acc": 1' + "0" * 400 + "}", "no scores that are numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path: Path, name: str) -> None:
    text, said = REFUSED[name]
    with pytest.raises(UserError) as refused:
        read_log(written(tmp_path / "a.log", text))
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 3


def refused_archive(make: Callable[[Path], object], tmp_path: Path) -> str:
    make(path := tmp_path / "l.eval")
    with pytest.raises(UserError) as refused:
        read_log(path)
    return str(refused.value)


def test_archives_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bomb(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(8):
                archive.writestr(f"_journal/summaries/{number}.json", b" " * 2**20)

    def other(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../samples.json", "[]")

    def twice(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("summaries.json", "[]")
            archive.writestr("summaries.json", "[]")

    def patched(place: int, value: int) -> Callable[[Path], None]:
        """Change a field of the members' heads, in the table of contents and before the members."""

        def make(path: Path) -> None:
            write_eval(path, [sample_of_inspect(1, {"match": "C"})])
            content = bytearray(path.read_bytes())
            for mark, at in ((b"PK\1\2", place), (b"PK\3\4", place - 2)):
                start = content.find(mark)
                while start >= 0:
                    content[start + at] = value
                    start = content.find(mark, start + 1)
            path.write_bytes(content)

        return make

    monkeypatch.setattr("robust_lowrank.bounds.FREE", 2**20)
    assert "as a decompression bomb does" in refused_archive(bomb, tmp_path)
    assert "neither summaries nor samples" in refused_archive(other, tmp_path)
    assert "holds a file twice" in refused_archive(twice, tmp_path)
    assert "inspect log convert FILE --to json" in refused_archive(patched(10, 93), tmp_path)
    assert "is damaged" in refused_archive(patched(8, 1), tmp_path)  # encrypted
    assert "is damaged" in refused_archive(patched(16, 7), tmp_path)  # another checksum
    assert "is damaged" in refused_archive(lambda path: path.write_bytes(b"PK\3\4" + bytes(100)), tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_lowrank.logs.texts.LINE", 100)
    with pytest.raises(UserError, match="line 2: it has more than 100 bytes"):
        read_log(written(tmp_path / "a.csv", "example,correct\n" + "1" * 200 + ",1\n"))
    monkeypatch.setattr("robust_lowrank.logs.scores.EXAMPLES", 2)
    with pytest.raises(UserError, match="more than 2 examples"):
        read_log(written(tmp_path / "b.csv", "example,correct\n1,1\n2,1\n3,1\n"))
    monkeypatch.setattr("robust_lowrank.logs.texts.DOCUMENT", 10)
    with pytest.raises(UserError, match=r"at most 10\n.*inspect log convert FILE --to eval"):
        read_log(written(tmp_path / "c.json", json.dumps({"samples": []})))


def test_encodings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="UTF-16: save it as UTF-8"):
        read_log(written(tmp_path / "a.csv", "example,correct\n1,1\n", "utf-16"))
    with pytest.raises(UserError, match="no text in UTF-8, at the byte 0xe9"):
        read_log(written(tmp_path / "b.csv", "example,correct\né,1\n", "latin-1"))


def test_names(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        written(tmp_path / place / "log.csv", "")
    twins = [str(tmp_path / place / "log.csv") for place in ("a", "b")]
    assert list(named([twins[0]])) == ["log"]
    assert list(named(twins)) == twins
    assert named([f"ours={twins[0]}", twins[1]]) == {"ours": Path(twins[0]), "log": Path(twins[1])}
    with pytest.raises(UserError, match="'x' stands for two files"):
        named(["x=a", "x=b"])
    assert list(named(["<b>\x1b[2J=a"])) == [r"<b>\x1b[2J"]
