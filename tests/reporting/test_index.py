import json
import re
from pathlib import Path

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.reporting.index import published, write_index

REPORTS = Path(__file__).parents[2] / "reports"


def document(**changes) -> str:
    record = {
        "title": "Rank against tau",
        "subtitle": "4 networks",
        "created": "2026-11-24T10:00:00+00:00",
        "command": "rlr-eval bench experiments/a.toml",
        "summary": {
            "headline": "CondLR holds 60 %.",
            "evidence": "",
            "findings": [{"kind": "supported", "text": "Better than *Dense*."}, {"kind": "note", "text": "One run."}],
        },
        "files": ["report.md", "results.csv", "figures/a.pdf", "figures/a.svg", "figures/b.svg"],
    }
    return json.dumps(record | changes)


def folder(directory: Path, name: str, text: str, file: str = "report.json") -> None:
    (directory / name).mkdir(exist_ok=True)
    (directory / name / file).write_text(text, encoding="utf-8")


def test_every_report_has_a_section_with_its_command_and_its_files(tmp_path):
    folder(tmp_path, "b", document(title="Second"))
    folder(tmp_path, "a", document())
    folder(tmp_path, "a", document(title="Layers"), "condition.json")
    folder(tmp_path, "demo", document())
    (tmp_path / "empty").mkdir()
    assert write_index(tmp_path) == tmp_path / "README.md"
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^## (.*)$", text) == ["Rank against tau", "Layers", "Second"]
    assert "made on 2026-11-24" in text
    assert "**CondLR holds 60 %.**" in text
    assert "```\nrlr-eval bench experiments/a.toml\n```" in text
    assert set(re.findall(r"\]\(([ab]/[^)]*)\)", text)) >= {"a/report.html", "a/condition.html", "b/results.csv"}
    assert r"- Better than \*Dense\*." in text and "One run" not in text
    assert set(re.findall(r"!\[First figure of [^]]*\]\(([^)]*)\)", text)) == {"a/figures/a.svg", "b/figures/a.svg"}
    assert "figures/a.pdf" not in text
    assert "No reports yet" not in text


def test_texts_of_a_report_are_text_in_the_index(tmp_path):
    folder(tmp_path, "a b", document(title="<script>alert(1)</script> | *x*", command="```\n# not a heading"))
    written = write_index(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in written
    assert r"\| \*x\*" in written
    assert "````\n```\n# not a heading\n````" in written
    assert "(a%20b/report.html)" in written


@pytest.mark.parametrize("text", ["{", "[]", '{"title": "x"}', document(summary=None), document(files=7)])
def test_a_file_that_is_no_report_is_named(tmp_path, text):
    folder(tmp_path, "a", text)
    with pytest.raises(UserError, match=r"a/report\.json is not the JSON file of a report"):
        published(tmp_path)


def test_no_directory_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is not a directory"):
        write_index(tmp_path / "none")


def test_the_index_in_this_repository_lists_its_reports():
    if not REPORTS.is_dir():
        pytest.skip("installed without the repository: there is no reports/README.md to check")
    text = (REPORTS / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# Published reports")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (REPORTS / target).exists(), target
