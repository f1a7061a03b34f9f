import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from robust_lowrank.errors import UserError
from robust_lowrank.reporting import comparison_report, summary
from robust_lowrank.statistics import bounded, detectable, examples_to_see, over_seeds, paired_difference

NASTY = "CondLR <script>alert('x')</script> | *bold* `code` [link](http://example.org) $x$"
RIGHT = np.array([True] * 70 + [False] * 30)


class Page(HTMLParser):
    """The tags with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def table_blocks(text: str) -> list[list[str]]:
    blocks = [[line for line in block.splitlines() if line.startswith("|")] for block in text.split("\n\n")]
    return [block for block in blocks if block]


@pytest.fixture(scope="module")
def report(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    path = comparison_report(trained, out, title="Digits", command="rlr-eval report runs/*")
    assert path == out / "report.html"
    return out


@pytest.fixture(scope="module")
def page(report):
    return Page((report / "report.html").read_text(encoding="utf-8"))


def test_the_page_loads_nothing(page, report):
    for tag, attributes in page.tags:
        if tag == "a" and not attributes["href"].startswith("#"):
            assert (report / attributes["href"]).is_file()
            continue
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            address = attributes.get(name) or ""
            assert address.startswith(("data:", "#")) or not address, (tag, address)
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert not re.search(r"url\(|@import", (page.scripts and "") + "".join(a.get("style") or "" for _, a in page.tags))


def test_every_chart_has_its_specification_and_its_still_picture(page):
    charts = json.loads(page.scripts[0])
    places = [a for t, a in page.tags if t == "div" and a.get("class") == "chart"]
    assert len(places) == sum(len(specs) for specs in charts["specs"].values())
    for place in places:
        spec = charts["specs"][place["data-figure"]][int(place["data-panel"])]
        assert spec["width"] == "container"
        assert spec["description"]
        assert set(charts["ranges"][place["data-figure"]]) == {"light", "dark"}
    stills = [a for t, a in page.tags if t == "img"]
    assert len(stills) == len(charts["specs"])
    assert all(a["alt"] and a["src"].startswith("data:image/svg+xml;base64,") for a in stills)


def test_tables_are_accessible(page):
    headers = [a for t, a in page.tags if t == "th"]
    assert headers
    assert all(a.get("scope") in ("row", "col", "colgroup") for a in headers)
    assert sum(t == "caption" for t, _ in page.tags) == sum(t == "table" for t, _ in page.tags)


def test_the_page_says_what_was_found_and_how_it_was_made(page, trained):
    words = page.words
    dense = trained[-1].results["quick"].record
    worst = next(a for a in dense.accuracies if a.attack == "worst" and a.eps == 0.1)
    assert f"{100 * worst.value:.1f}" in words
    assert "Holm-corrected over" in words
    assert "certificate quantity" in words
    assert "not the convolution operator" in words
    assert "n = 150" in words
    assert "! warn" in words and "✓ pass" in words
    assert "rlr-eval report runs/*" in words
    assert trained[0].record.versions["torch"] in words


def test_the_csv_holds_the_recorded_numbers(report, trained):
    frame = pd.read_csv(report / "results.csv")
    for run in trained:
        name = "CondLR τ=0.1" if "0.1" in run.record.label else run.record.label
        mine = frame[(frame["label"] == name) & (frame["seed"] == run.record.seed)]
        recorded = run.results["quick"].record.accuracies
        assert len(mine) == len(recorded)
        for row, accuracy in zip(mine.itertuples(), recorded, strict=True):
            assert (row.attack, row.eps, row.correct, row.n) == (
                accuracy.attack,
                accuracy.eps,
                accuracy.correct,
                accuracy.total,
            )
            assert (row.accuracy, row.low, row.high) == (accuracy.value, accuracy.low, accuracy.high)
        assert (mine["parameters_inference"] == run.record.parameters.inference).all()
        last = run.spectra[run.spectra["epoch"] == run.spectra["epoch"].max()]
        assert mine["condition_worst"].iloc[0] == pytest.approx(last["cond"].max(), rel=1e-12)
        assert mine["condition_product"].iloc[0] == pytest.approx(last["cond"].prod(), rel=1e-12)


def test_markdown_tables_have_as_many_cells_as_columns(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    tables = table_blocks(text)
    assert len(tables) >= 6
    for lines in tables:
        assert set(lines[1]) <= set("|:- ")
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(cells) == 1, lines
    for picture in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (report / picture).is_file()


def test_figures_are_as_wide_as_a_column_or_the_text(report):
    starts = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    figures = sorted((report / "figures").iterdir())
    stems = [{path.stem for path in figures if path.suffix == suffix} for suffix in starts]
    assert len(stems[0]) >= 5
    assert stems[0] == stems[1] == stems[2]
    for path in figures:
        assert path.read_bytes().startswith(starts[path.suffix])
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
                assert min(abs(image.width / 300 - inches) for inches in (3.3, 6.9)) < 0.01
            svg = path.with_suffix(".svg").read_text(encoding="utf-8")
            assert re.search(r'width="(3.3|6.9)in"', svg)
            points = float(re.search(rb"MediaBox \[0 0 ([0-9.]+)", path.with_suffix(".pdf").read_bytes())[1])
            assert min(abs(points / 72 - inches) for inches in (3.3, 6.9)) < 0.01


def test_a_method_has_one_colour_whoever_else_is_there(trained, tmp_path):
    comparison_report(trained[1:2], tmp_path, title="One", command="x")
    charts = json.loads(Page((tmp_path / "report.html").read_text(encoding="utf-8")).scripts[0])
    assert all(ranges["light"]["category"] == ["#0072b2"] for ranges in charts["ranges"].values())


def test_names_are_text_in_every_format(make_run, make_result, tmp_path):
    weak = RIGHT & (np.arange(100) < 30)
    runs = [
        make_run("Dense", results=[make_result(RIGHT, {("fgsm", 0.1): weak})]),
        make_run(
            NASTY,
            method="condlr",
            model="</script><b>",
            results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT})],
            weights={"<img src=x>": np.diag([2.0, 1.0])},
            config={"note": "```\n</script>"},
        ),
    ]
    comparison_report(runs, tmp_path, title="<i>Title</i>", command="rlr-eval </pre>")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert NASTY in page.words
    assert "<i>Title</i>" in page.words
    assert len(page.scripts) == 3
    assert not {"b", "i"} & {tag for tag, _ in page.tags}
    assert all(a["src"].startswith("data:") for t, a in page.tags if t == "img")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    prose = re.sub(r"(?ms)^(`{3,})\n.*?^\1$", "", text)
    assert "<" not in prose
    assert r"\| \*bold\* \`code\` \[link\](http://example.org) \$x\$" in prose
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table_blocks(text)[0]}) == 1
    assert NASTY in pd.read_csv(tmp_path / "results.csv")["label"].tolist()
    assert "<script" not in (tmp_path / "figures" / "robust-accuracy-quick-linf.svg").read_text(encoding="utf-8")


def test_a_supported_difference_is_stated_with_its_p_value(make_run, make_result, tmp_path):
    weak = RIGHT & (np.arange(100) < 30)
    runs = [
        make_run("Dense", results=[make_result(RIGHT, {("autoattack", 0.1): weak})]),
        make_run("CondLR τ=0.1", method="condlr", results=[make_result(RIGHT, {("autoattack", 0.1): RIGHT})]),
    ]
    words = Page(comparison_report(runs, tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    assert "CondLR τ=0.1 holds 70.0 % [60.4, 78.1] under AutoAttack at L∞ eps 0.1, 40.0 points more than Dense (30.0 %" in words
    assert "The difference is statistically supported: paired exact McNemar test on the same 100 examples, p < 0.001" in words


def test_differences_have_intervals_and_the_examples_a_power(make_run, make_result, tmp_path):
    runs = [
        make_run(label, results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT & (np.arange(100) < n)})])
        for label, n in (("Dense", 30), ("Other", 60))
    ]
    words = Page(comparison_report(runs, tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    difference = paired_difference(RIGHT & (np.arange(100) < 30), RIGHT & (np.arange(100) < 60))
    assert f"−30.0 [−{-100 * difference.low:.1f}, −{-100 * difference.high:.1f}]" in words
    strictest = 0.05 / 2  # clean accuracy is the other test
    smallest = detectable(100, discordance=0.3, alpha=strictest)
    needed = examples_to_see(0.01, discordance=0.3, alpha=strictest)
    power = (
        f"With power 80 %, 100 examples show differences from {100 * smallest:.1f} points on, and 1 point takes {needed:,} examples"
    )
    assert power in words


def test_seeds_show_their_spread(page, trained):
    accuracies = [run.results["quick"].record.accuracies[0].value for run in trained[1:3]]
    spread = over_seeds(accuracies)
    assert "mean of 2 seeds" in page.words
    assert f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}" in page.words
    assert "standard deviation between" in page.words


def test_unresolved_examples_make_an_accuracy_a_range(make_run, make_result, tmp_path):
    weak, unresolved = RIGHT & (np.arange(100) < 20), np.arange(100) < 7
    runs = [
        make_run("Dense", results=[make_result(RIGHT, {("fgsm", 0.1): weak})]),
        make_run("Other", method="condlr", results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT}, unresolved=unresolved)]),
    ]
    words = Page(comparison_report(runs, tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    low, high = bounded(63, 7, 100)[1:]
    assert f"Other holds 63.0 to 70.0 % [{100 * low:.1f}, {100 * high:.1f}], 7 unresolved" in words
    assert "43.0 to 50.0 points more than Dense" in words
    assert "ran out before 7 verdicts" in words
    assert not re.search(r"63\.0 (?!to)", words)
    frame = pd.read_csv(tmp_path / "results.csv")
    assert frame[frame["attack"] == "worst"]["unresolved"].tolist() == [0, 7]


def test_what_a_larger_eps_implies_is_said(make_run, make_result, tmp_path):
    found = make_result(RIGHT, {("curve", 0.1): RIGHT, ("curve", 0.2): RIGHT & (np.arange(100) < 20)})
    entries = [each.model_copy(update={"implied": 20 * (each.eps == 0.1)}) for each in found.record.accuracies]
    implied = replace(found, record=found.record.model_copy(update={"accuracies": entries}))
    for name, result in (("said", implied), ("silent", found)):
        report = comparison_report([make_run("Dense", results=[result])], tmp_path / name, title="t", command="x")
        words = Page(report.read_text(encoding="utf-8")).words
        assert ("counts as robust at smaller ones without an attack there" in words) == (name == "said")
    frame = pd.read_csv(tmp_path / "said" / "results.csv")
    assert frame.set_index(["attack", "eps"])["implied"].to_dict()["worst", 0.1] == 20


def test_an_unsupported_difference_is_not_called_better(make_run, make_result, tmp_path):
    runs = [
        make_run(label, results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT & (np.arange(100) < n)})])
        for label, n in (("Dense", 50), ("Other", 52))
    ]
    words = Page(comparison_report(runs, tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    assert "Other and Dense cannot be told apart: 52.0 %" in words
    assert "is not statistically supported" in words
    assert "is better" not in words
    assert "★" not in words


def test_runs_on_other_examples_are_not_compared(make_run, make_result, tmp_path):
    runs = [
        make_run("a", results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT}, data="d1")]),
        make_run("b", results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT & False}, data="d2")]),
    ]
    words = Page(comparison_report(runs, tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    assert "never compared with each other" in words
    assert "McNemar" not in words


def test_one_run_alone(trained, tmp_path):
    words = Page(comparison_report(trained[-1:], tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    assert "Dense holds" in words
    assert "there is nothing to compare it with" in words


def test_runs_that_were_not_attacked(make_run, tmp_path):
    runs = [make_run("Dense"), make_run("CondLR", method="condlr", test_accuracy=None, status="running")]
    words = Page(comparison_report(runs, tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    assert "None of these networks has been attacked" in words
    assert "Training was not finished: CondLR." in words
    assert "No spectra were recorded" in words
    frame = pd.read_csv(tmp_path / "results.csv")
    assert frame["attack"].isna().all()
    assert len(frame) == 2


def test_a_failed_audit_stands_in_the_summary(make_run, make_result, tmp_path):
    from robust_lowrank.records import AuditFinding

    finding = AuditFinding(check="finite", status="fail", message="7 gradients are not finite", remedy="lower the learning rate")
    runs = [make_run("Dense", results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT}, audit=[finding])])]
    words = Page(comparison_report(runs, tmp_path, title="t", command="x").read_text(encoding="utf-8")).words
    assert "failed for Dense: do not quote these numbers" in words
    assert "7 gradients are not finite. Remedy: lower the learning rate." in words


def test_no_runs_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError):
        comparison_report([], tmp_path / "out", title="t", command="x")
    assert not (tmp_path / "out").exists()


def test_a_study_of_many_networks_says_first_what_goes_with_robustness(make_run, make_result, tmp_path):
    right = np.ones(100, dtype=bool)
    runs = [
        make_run(
            f"N{place:02}",
            seed=seed,
            results=[make_result(right, {("pgd", 0.1): np.arange(100) < 90 - 2 * place - seed})],
            weights={"one": np.diag([2.0 + place, 1.0])},
        )
        for place in range(16)
        for seed in (0, 1)
    ]
    said = summary(runs)
    assert said.headline.startswith("Over 16 methods (means over their seeds), robust accuracy tends to be lower")
    assert "not what causes what" in said.evidence
    assert "cannot be told apart" in said.statements[0].text or "more than" in said.statements[0].text
    page = comparison_report(runs, tmp_path / "r", title="Study", command="")
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "Of more than 12 methods each is tested against the first alone" in text
    assert "condition-over-training" not in text, "a chart with a line for each of 32 networks shows nothing"
    few = comparison_report(runs[:6], tmp_path / "f", title="Few", command="")
    assert "is tested against the first alone" not in few.with_suffix(".md").read_text(encoding="utf-8")
