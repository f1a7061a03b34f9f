"""The formats beside the page: the same numbers with their types, and names as text in every one of them."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from robust_lowrank.reporting import comparison_report, condition_report
from robust_lowrank.reporting.formats.drawing import NotDrawnError
from robust_lowrank.reporting.formats.figures import Figure
from robust_lowrank.reporting.formats.statements import Summary
from robust_lowrank.reporting.output import latex, page
from robust_lowrank.reporting.output.document import render
from robust_lowrank.reporting.output.provenance import Provenance

RIGHT = np.array([True] * 70 + [False] * 30)
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    r"\input{/etc/passwd} $x$ 50% _a_ #1 ~ ^ { } \\ [1ex] * & --",
    "a | b `code` **bold** [link](x)",
    "=cmd|'/c calc'!A1",
    '+1,-2;"quoted"',
]
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx}
\begin{document}
\input{%s}
\end{document}
"""


@pytest.fixture(scope="module")
def hostile_runs(make_run, make_result):
    weak = RIGHT & (np.arange(100) < 30)
    return [
        make_run(
            name,
            method="condlr" if i else "dense",
            model=name,
            data=HOSTILE[0],
            results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT if i else weak})],
            weights={name: np.diag([2.0, 1.0 - 0.1 * i])},
            ranks={name: 2} if i else None,
            config={"note": name, "number": i},
            kept_dense={name: HOSTILE[1]},
            path=f"runs/{i}",
        )
        for i, name in enumerate(HOSTILE)
    ]


@pytest.fixture(scope="module")
def hostile(hostile_runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("hostile")
    comparison_report(hostile_runs, out, title=HOSTILE[0], command=HOSTILE[2])
    condition_report(hostile_runs, out, title=HOSTILE[2], command=HOSTILE[1])
    return out


@pytest.fixture(scope="module")
def mixed(make_run, make_result, tmp_path_factory):
    """A run that was attacked, one that was not, and an infinite condition number."""
    out = tmp_path_factory.mktemp("mixed")
    runs = [
        make_run("a", results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT})], weights={"one": np.diag([1.0, 0.0])}),
        make_run("b", method="condlr", test_accuracy=None),
    ]
    comparison_report(runs, out, title="Mixed", command="x")
    return out


@pytest.mark.parametrize("name", ["report.json", "condition.json"])
def test_names_come_back_whole_from_json(hostile, name):
    document = json.loads((hostile / name).read_text(encoding="utf-8"))
    assert {record["run"] for record in document["records"]} == set(HOSTILE)
    assert document["title"] in HOSTILE and document["command"] in HOSTILE


@pytest.mark.parametrize("name", ["results", "condition"])
def test_names_come_back_whole_from_csv_and_parquet(hostile, name):
    assert set(pd.read_parquet(hostile / f"{name}.parquet")["run"]) == set(HOSTILE)
    written = {f"'{text}" if text[0] in "=+-@" else text for text in HOSTILE}
    assert written != set(HOSTILE)
    assert set(pd.read_csv(hostile / f"{name}.csv")["run"]) == written


@pytest.mark.parametrize("name", ["report", "condition"])
def test_names_are_text_in_html_and_markdown(hostile, name):
    page = (hostile / f"{name}.html").read_text(encoding="utf-8")
    assert page.count("<script>alert") == 0
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    text = re.sub(r"(?ms)^(`{3,})\n.*?^\1$", "", (hostile / f"{name}.md").read_text(encoding="utf-8"))
    assert "<script" not in text and "<img" not in text
    assert r"a \| b \`code\` \*\*bold\*\* \[link\](x)" in text


@pytest.mark.parametrize("name", ["report", "condition"])
def test_names_are_text_in_latex(hostile, name):
    body = [line for line in (hostile / f"{name}.tex").read_text(encoding="utf-8").splitlines() if not line.startswith("%")]
    text = "\n".join(body)
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\$ 50\% \_a\_ \#1" in text
    assert text.isascii()
    columns = [len(re.findall(r"(?<!\\)&", line)) for line in body if line.endswith(r"\\") and "&" in line]
    assert columns and text.count(r"\begin{table}") == text.count(r"\end{table}") >= 4


@pytest.mark.parametrize("name", ["report", "condition"])
def test_tables_compile(hostile, name, tmp_path):
    engine = shutil.which("pdflatex") or shutil.which("tectonic")
    if engine is None:
        pytest.skip("neither pdflatex nor tectonic is installed: the LaTeX tables were not compiled")
    (tmp_path / "paper.tex").write_text(DOCUMENT % (hostile / name).as_posix())
    options = ["-interaction=nonstopmode", "-halt-on-error"] if engine.endswith("pdflatex") else []
    done = subprocess.run([engine, *options, "paper.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").is_file()


@pytest.mark.parametrize("name", ["results", "condition"])
def test_csv_and_parquet_hold_the_same_with_the_same_types(trained, tmp_path_factory, name):
    out = tmp_path_factory.mktemp("types")
    (comparison_report if name == "results" else condition_report)(trained, out, title="t", command="x")
    csv, parquet = pd.read_csv(out / f"{name}.csv"), pd.read_parquet(out / f"{name}.parquet")
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)
    kinds = {True: "iu", False: "f"}
    for column in csv:
        assert csv[column].dtype.kind in "iufbO", column
        if parquet[column].dtype.kind in "iuf":
            assert csv[column].dtype.kind in kinds[parquet[column].dtype.kind in "iu"], column
    records = json.loads((out / ("report.json" if name == "results" else "condition.json")).read_text(encoding="utf-8"))["records"]
    again = pd.DataFrame(records)
    for column in csv.select_dtypes("number"):
        np.testing.assert_array_equal(again[column].to_numpy(dtype=float), csv[column].to_numpy(dtype=float))


def test_what_a_run_lacks_is_missing_and_keeps_its_type(mixed):
    frame = pd.read_parquet(mixed / "results.parquet")
    missing = frame["run"] == "b"
    assert frame.loc[missing, ["correct", "accuracy", "test_accuracy"]].isna().all(axis=None)
    assert frame["correct"].dtype == "Int64"
    assert frame["test_accuracy"].dtype == "float64"
    assert re.search(r",70,100,0,0,0\.7,", (mixed / "results.csv").read_text(encoding="utf-8"))


def test_json_has_neither_infinities_nor_nan(mixed):
    text = (mixed / "report.json").read_text(encoding="utf-8")
    document = json.loads(text, parse_constant=pytest.fail)
    assert {record["condition_worst"] for record in document["records"]} == {"Infinity", None}
    assert document["summary"]["headline"]
    assert all((mixed / file).is_file() for file in document["files"])


def test_json_numbers_are_exact():
    made = Provenance("x", "now", "p", "m", (), ())
    context = {"title": "t", "subtitle": "", "summary": Summary("h", "", ()), "provenance": made}
    frame = pd.DataFrame({"a": [0.1, -np.inf, np.nan], "n": pd.array([1, None, 3], dtype="Int64")})
    assert json.loads("".join(render("report", frame, context, [])))["records"] == [
        {"a": 0.1, "n": 1},
        {"a": "-Infinity", "n": None},
        {"a": None, "n": 3},
    ]


@pytest.mark.parametrize(
    ("text", "typeset"),
    [
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("$x$ 50% _a_ #1 ~ ^", r"\$x\$ 50\% \_a\_ \#1 \textasciitilde{} \textasciicircum{}"),
        ("CondLR τ=0.1", r"CondLR $\tau$=0.1"),
        ("ε ≤ 8/255 ± 1 – L∞ ★", r"$\varepsilon$ $\leq$ 8/255 $\pm$ 1 -- L$\infty$ $\star$"),
        ("10⁻⁷ x₂", r"10$^{-}$$^{7}$ x$_{2}$"),
        ("--out", "-{}-out"),
        ("[0.1] *", "{[}0.1{]} {*}"),
        ("Müller, Č", r"M{\"{u}}ller, {\v{C}}"),
        ("漢\u202e\x07", "{[}U+6F22{]}{[}U+202E{]}{[}U+0007{]}"),
        ("a\n\n\\end{table}", r"a \textbackslash{}end\{table\}"),
    ],
)
def test_text_is_typeset_as_it_stands(text, typeset):
    assert latex.escape(text) == typeset


def test_a_report_comes_without_pictures_where_the_engine_fails(hostile_runs, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise NotDrawnError("it died")

    monkeypatch.setattr(Figure, "paper", fail)
    monkeypatch.setattr(page, "javascript", fail)
    whole = comparison_report(hostile_runs[:2], tmp_path, title="t", command="c").read_text(encoding="utf-8")
    assert "There is no picture of it: it died." in whole
    assert '<img class="still"' not in whole
    assert not list(tmp_path.glob("figures/*.svg"))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "There is no picture of it: it died." in text
    assert ".svg" not in text
    assert ".svg" not in (tmp_path / "report.json").read_text(encoding="utf-8")
