"""Results of benchmarks are kept, and a ratio that has grown is found."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from benchmarks.results import Change, add, changes, history, load, save
from robust_lowrank import UserError


def module(key: tuple[str, ...], ratios: tuple[str, ...]) -> ModuleType:
    made = ModuleType("made", "what it measures")
    made.KEY, made.RATIOS = key, ratios  # pyright: ignore[reportAttributeAccessIssue]
    return made


STEPS = module(("network", "batch"), ("condlr", "dlrt"))


def write(path: Path, *rows: tuple[str, int, str, str]) -> Path:
    table = pd.DataFrame(rows, columns=pd.Index(["network", "batch", "condlr", "dlrt"]))
    save(path, {"steps": (STEPS, table)})
    return path


def test_tables_are_kept_beside_those_of_others(tmp_path: Path) -> None:
    path = write(tmp_path / "deep" / "results.json", ("vgg", 32, "1.40", "2.00"))
    save(path, {"audit": (ModuleType("audit", "how often"), pd.DataFrame({"share": [0.5]}))})
    kept = load(path)["benchmarks"]
    assert [row["condlr"] for row in kept["steps"]["rows"]] == ["1.40"]
    assert (kept["audit"]["rows"], kept["audit"]["ratios"]) == ([{"share": 0.5}], [])


def test_ratios_of_the_cases_in_common_are_compared(tmp_path: Path) -> None:
    old = write(tmp_path / "old.json", ("vgg", 32, "1.00", "2.00"), ("vgg", 128, "", "2.0"))
    new = write(tmp_path / "new.json", ("vgg", 32, "1.25", "1.50"), ("vgg", 128, "1.0", "2.0"), ("lenet", 32, "9", "9"))
    found = {(change.case, change.ratio): change for change in changes(load(old), load(new))}
    assert found == {
        ("vgg, 32", "condlr"): Change("steps", "vgg, 32", "condlr", 1.0, 1.25),
        ("vgg, 32", "dlrt"): Change("steps", "vgg, 32", "dlrt", 2.0, 1.5),
        ("vgg, 128", "dlrt"): Change("steps", "vgg, 128", "dlrt", 2.0, 2.0),
    }
    assert found["vgg, 32", "condlr"].by == pytest.approx(0.25)


def test_a_history_stands_for_the_newest_table_of_each_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for steps, others in (("1.00", {"audit": (module((), ()), pd.DataFrame({"share": [0.5]}))}), ("1.20", {})):
        table = pd.DataFrame({"network": ["vgg"], "batch": [32], "condlr": [steps], "dlrt": ["2.0"]})
        add(path, {"steps": (STEPS, table)} | others)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["benchmarks"]["steps"]["rows"][0]["condlr"] for line in lines] == ["1.00", "1.20"]
    assert all(line["version"] and line["commit"] and line["date"] for line in lines)
    assert load(path)["benchmarks"].keys() == {"steps", "audit"}
    new = write(tmp_path / "new.json", ("vgg", 32, "1.50", "2.0"))
    assert [change.old for change in changes(load(path), load(new))] == [1.2, 2.0]


def test_a_history_is_told_by_its_name() -> None:
    assert history("deep/history.jsonl") == Path("deep/history.jsonl")
    with pytest.raises(argparse.ArgumentTypeError, match=r"ends with \.jsonl"):
        history("history.json")


@pytest.mark.parametrize(("after", "code"), [pytest.param("1.09", 0, marks=pytest.mark.slow), ("1.11", 1)])
def test_the_command_fails_where_a_ratio_grew_by_a_tenth(tmp_path: Path, after: str, code: int) -> None:
    files = [write(tmp_path / name, ("vgg", 32, value, "2")) for name, value in (("old.json", "1.00"), ("new.json", after))]
    ended = subprocess.run([sys.executable, "-m", "benchmarks.results", *files], capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    assert f"{code} of 2 ratios are more than 10% larger than before" in ended.stdout


def test_what_holds_no_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match="'make bench' has written"):
        load(tmp_path / "other.json")
