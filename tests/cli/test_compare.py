"""`compare`: logs of other tools side by side, on the terminal, as JSON and as a page."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import Result

from tests.logs.drawn import sample_of_inspect, sample_of_lm_eval, write_eval, write_lines

Command = Callable[..., Result]
HOSTILE = "<script>alert(1)</script>"


def csv(path: Path, right: np.ndarray) -> Path:
    path.write_text("example,correct\n" + "".join(f"{number},{int(each)}\n" for number, each in enumerate(right)))
    return path


@pytest.fixture
def logs(here: Path) -> Path:
    """Four systems on 60 examples, a log of each kind."""
    right = np.arange(60) < 40
    csv(here / "a.csv", right)
    csv(here / "=1+1.csv", np.roll(right, 20))
    write_lines(here / "s.jsonl", [sample_of_lm_eval(n, exact_match=float(n % 2)) for n in range(60)])
    write_eval(here / "l.eval", [sample_of_inspect(n, {HOSTILE: "C" if n < 55 else "I"}) for n in range(60)])
    return here


ALL = ("a.csv", "=1+1.csv", "lm=s.jsonl", f"{HOSTILE}=l.eval")


def test_on_the_terminal_and_as_json(rlr_eval: Command, logs: Path) -> None:
    shown = rlr_eval("compare", *ALL)
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^a +40 of 60 +66\.7 +\[54\.1, 77\.3\] +correct +csv *$", shown.stdout, re.MULTILINE)
    assert re.search(r"^a – lm +\+16\.7 +\[.*\] +20 : 10 +0\.099 +0\.30 +not distinguishable *$", shown.stdout, re.MULTILINE)
    assert f"{HOSTILE} is better" in shown.stdout
    assert "With power 80 %, 60 examples show differences from" in shown.stdout
    listed = json.loads(rlr_eval("compare", *ALL, "--baseline", "a", "--json").stdout)
    assert [each["name"] for each in listed["systems"]] == ["a", "=1+1", "lm", HOSTILE]
    assert [(each["a"], each["b"]) for each in listed["comparisons"]] == [("=1+1", "a"), ("lm", "a"), (HOSTILE, "a")]
    assert listed["comparisons"][1]["difference"] == pytest.approx(-1 / 6)
    assert [each["better"] for each in listed["comparisons"]] == [None, None, HOSTILE]


def test_the_page_and_the_files_beside_it(rlr_eval: Command, logs: Path) -> None:
    done = rlr_eval("compare", *ALL, "--out", "out")
    assert done.exit_code == 0, done.output
    assert "Report: out/compare.html" in done.stdout
    page = (logs / "out/compare.html").read_text()
    assert HOSTILE not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//|@import|url\(""", page)
    assert len(page) < 200_000
    records = json.loads((logs / "out/compare.json").read_text())["records"]
    table = pd.read_csv(logs / "out/comparisons.csv")
    assert len(records) == len(table) == 6
    assert (records[0]["a"], records[0]["b"], records[0]["only_a"], records[0]["only_b"]) == ("a", "=1+1", 20, 20)
    assert table["b"][0] == "'=1+1"
    assert table["p_holm"].tolist() == pytest.approx([record["p_holm"] for record in records])
    assert records[2]["log_b"] == "l.eval" and records[2]["better"] == HOSTILE
    assert {path.name for path in (logs / "out").iterdir()} >= {"compare.md", "compare.tex", "comparisons.parquet"}
    assert "Paired tests" in (logs / "out/compare.md").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("a.csv",), "a comparison takes 2 to 100 logs, not 1"),
        (("a.csv", "nothing.csv"), "nothing.csv cannot be read: No such file"),
        (("a.csv", "."), "is a directory, and no run directory: give its files, such as"),
        (("a.csv", "/dev/zero"), "/dev/zero is a device, where a file is due"),
        (("a.csv", "short.csv"), "short lacks 55 of 60 examples, such as '5'\nTo compare on the 5 that all have: --common"),
        (("a.csv", "a.csv"), "'a.csv' stands for two files"),
        (("a.csv", "s.jsonl", "--metric", "acc"), "a.csv has no metric 'acc': it has correct"),
        (("a.csv", "s.jsonl", "--baseline", "b"), "unknown system 'b'"),
        (("a.csv", "s.jsonl", "--threshold", "nan"), "--threshold = nan must lie between"),
    ],
)
def test_what_is_refused(rlr_eval: Command, logs: Path, args: tuple[str, ...], said: str) -> None:
    csv(logs / "short.csv", np.ones(5))
    result = rlr_eval("compare", *args, "--out", "out")
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.splitlines()) <= 3
    assert not result.stdout and not (logs / "out").exists()


def test_what_all_have_is_compared(rlr_eval: Command, logs: Path) -> None:
    csv(logs / "short.csv", np.ones(5))
    result = rlr_eval("compare", "a.csv", "short.csv", "--common")
    assert result.exit_code == 0
    assert "55 examples that not all of the logs have are left out." in result.stdout
